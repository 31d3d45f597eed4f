// Sends one mail as the JSON on stdin says; exit status 1 where nodemailer says that nobody got it.
const nodemailer = require("nodemailer");
const { port, envelope, subject, text, attachment, raw } = JSON.parse(require("fs").readFileSync(0));

const transport = nodemailer.createTransport({ host: "127.0.0.1", port, name: "tool.example", secure: false, ignoreTLS: true });
const mail = raw
  ? { envelope: { ...envelope, use8BitMime: true }, raw }
  : { envelope, from: envelope.from, to: envelope.to, subject, text, attachments: attachment ? [{ path: attachment }] : [] };

transport.sendMail(mail).then(
  (info) => console.log(JSON.stringify({ accepted: info.accepted, rejected: info.rejected, response: info.response })),
  (error) => {
    console.error(String(error));
    process.exit(1);
  },
);
