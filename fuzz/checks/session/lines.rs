//! The lines of a client as a second reader takes them apart: verb, plain form, base64. Shares nothing with the relay's own.

/// A line of text that ends in CRLF, without it.
pub fn text(line: &[u8]) -> Option<&str> {
    let text = line.strip_suffix(b"\r\n")?;
    if text.contains(&0) || text.contains(&b'\r') { None } else { std::str::from_utf8(text).ok() }
}

pub fn bytes_of_exchange(line: &[u8], max: usize) -> Option<&[u8]> {
    line.strip_suffix(b"\r\n").filter(|_| line.len() <= max)
}

/// The first word, in upper case. The space behind it is forgiven where nothing else can be meant.
pub fn verb(line: &str) -> String {
    let word = line.trim_start_matches(' ').split([' ', '\t', '\x0c']).next().unwrap_or_default().to_ascii_uppercase();
    match word.as_str() {
        glued if glued == "MAILFROM" || glued.starts_with("MAILFROM:") => "MAIL".to_owned(),
        glued if glued == "RCPTTO" || glued.starts_with("RCPTTO:") => "RCPT".to_owned(),
        glued if glued.starts_with("AUTH") => "AUTH".to_owned(),
        _ => word,
    }
}

/// Whoever sends this will send a message next, whatever is said to it.
pub fn means_data(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line).to_ascii_uppercase();
    let first = text.split(|char: char| !char.is_ascii_alphanumeric()).find(|word| !word.is_empty());
    first == Some("DATA")
}

/// Behind AUTH.
pub fn mechanism(line: &str) -> impl Iterator<Item = &str> {
    line.trim_start_matches(' ')[4..].split(' ').filter(|word| !word.is_empty())
}

/// Written as RFC 5321 writes it, without parameters.
pub fn is_plain(line: &str) -> bool {
    let upper = line.to_ascii_uppercase();
    let is_name = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_mailbox = |text: &str| {
        let mailbox = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).and_then(|text| text.split_once('@'));
        mailbox.is_some_and(|(local, domain)| {
            is_name(local) && domain.len() <= 200 && local.len() <= 64 && domain.split('.').all(is_name)
        })
    };
    if let Some(rest) = upper.strip_prefix("MAIL FROM:").or_else(|| upper.strip_prefix("RCPT TO:")) {
        return is_mailbox(rest);
    }
    match upper.split_once(' ') {
        Some(("EHLO" | "HELO", name)) => name.len() <= 200 && name.split('.').all(is_name),
        Some(_) => false,
        None => matches!(upper.as_str(), "DATA" | "RSET" | "NOOP" | "QUIT" | "STARTTLS"),
    }
}

/// RFC 4648 4, with all of its padding.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |byte: u8| digits.iter().position(|digit| *digit == byte).map(|value| value as u32);
    let bare = text.trim_end_matches('=');
    let padding = text.len() - bare.len();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for byte in bare.bytes() {
        bits = bits << 6 | value(byte)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

/// RFC 4616 2.
pub fn plain(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let parts: Vec<_> = bytes.split(|byte| *byte == 0).collect();
    let [authorized, name, password] = parts[..] else { return None };
    let own = authorized.is_empty() || authorized == name;
    (own && !name.is_empty() && std::str::from_utf8(name).is_ok()).then(|| (name.to_vec(), password.to_vec()))
}
