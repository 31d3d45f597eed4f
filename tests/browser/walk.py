"""Walks through the admin page in a browser as a shop owner does, and as somebody who means ill."""

import os
import re
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

from aiosmtpd.controller import Controller
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

RELAY, AXE = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).read_text()
PICTURES = os.environ.get("PICTURES")
PATIENCE = 20
# What a browser would run, were it not told that it is text.
EVIL = '"<img/src=x/onerror=document.title=7>"@evil.example'
EVIL_HELO = "<script>document.title=7</script>"
EVIL_ID = "<img/src=x/onerror=document.title=7>@x.example"

passed, failed = 0, 0


def check(is_so, what):
    global passed, failed
    print(f"{'ok  ' if is_so else 'FAIL'}  {what}", flush=True)
    passed, failed = passed + bool(is_so), failed + (not is_so)
    return is_so


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def eventually(what):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    return what()


class Host:
    """The real mail host: away at first."""

    def __init__(self):
        self.port, self.mails = free_port(), []
        self.controller = Controller(self, hostname="127.0.0.1", port=self.port)

    async def handle_DATA(self, _server, _session, envelope):
        self.mails.append((envelope.mail_from, envelope.rcpt_tos))
        return "250 2.0.0 taken"


class Shop:
    """A relay with its lists, log and spool in a folder."""

    def __init__(self, folder, host, more=""):
        self.folder, self.host = Path(folder), host
        self.smtp, self.page = free_port(), free_port()
        (self.folder / "blacklist.toml").write_text('addresses = ["out@x.example", \'%s\']\n' % EVIL)
        (self.folder / "relay.toml").write_text(f"""
state_dir = "{folder}/var"
[listen]
smtp = ["127.0.0.1:{self.smtp}"]
[upstream]
url = "smtp://127.0.0.1:{host.port}"
connect_timeout = "2s"
[delivery]
min_free = "0B"
[learn]
trusted_authserv = ["mx.shop.example"]
[opt_out]
action = "reject"
[admin]
listen = ["127.0.0.1:{self.page}"]
users = "admins.toml"
{more}
""")
        subprocess.run([RELAY, "--config", self.folder / "relay.toml", "user", "--admin", "add", "anna"], input=b"a long secret\n",
                       check=True, stdout=subprocess.DEVNULL)
        self.process = subprocess.Popen([RELAY, "--config", self.folder / "relay.toml"], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "started" in line:
                break
        # Somebody must read it.
        self.reader = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=(self.folder / "said.log").open("w"))

    def mail(self, to, sender="shop@a.example", message_id=None, helo="tool.example", content=None):
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = sender, to if to.isascii() and "<" not in to else "a@b.example", "Your order"
        if message_id:
            message["Message-ID"] = message_id
        message.set_content("Please rate us.")
        with smtplib.SMTP("127.0.0.1", self.smtp, local_hostname=helo) as smtp:
            smtp.ehlo_or_helo_if_needed()
            code, _ = smtp.mail(sender)
            code, said = smtp.docmd(f"RCPT TO:<{to}>")
            if code != 250:
                return code, said
            return smtp.data(content or message.as_bytes(policy=SMTP))

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.reader.wait(PATIENCE)

    def url(self, path):
        return f"http://127.0.0.1:{self.page}{path}"


def browser(has_script, size, dark):
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    if dark:
        options.add_argument("--blink-settings=preferredColorScheme=0")
    driver = webdriver.Chrome(options=options)
    driver.set_page_load_timeout(PATIENCE)
    if not has_script:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                           {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500})
    return driver


class Walk:
    """One person at one browser."""

    def __init__(self, shop, has_script, size=(1200, 900), dark=False):
        self.shop, self.has_script, self.name = shop, has_script, f"{'script' if has_script else 'no script'}, {size[0]} px"
        self.driver = browser(has_script, size, dark)

    def go(self, path):
        self.driver.get(self.shop.url(path))

    def one(self, css):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self):
        return self.one("body").text

    def fill(self, **fields):
        for name, text in fields.items():
            field = self.one(f"main [name={name}]:not([type=hidden])")
            if field.tag_name == "select":
                Select(field).select_by_visible_text(text)
                continue
            field.clear()
            field.send_keys(text)

    def press(self, words, within="body", ask=False):
        """Presses a button, and says yes where the script asks; returns when the next page is there."""
        old = self.one("html")
        button = self.driver.find_element(By.XPATH, f"//{within}//button[normalize-space()='{words}']")
        button.click()
        if ask and self.has_script:
            self.driver.switch_to.alert.accept()
        eventually(lambda: self.is_gone(old))

    def is_gone(self, element):
        try:
            element.tag_name
            return False
        except Exception:
            return True

    def unfold(self, words):
        summary = self.driver.find_element(By.XPATH, f"//summary[starts-with(normalize-space(), '{words}')]")
        if not summary.find_element(By.XPATH, "..").get_attribute("open"):
            summary.click()

    def told(self):
        found = self.driver.find_elements(By.CSS_SELECTOR, ".told")
        return found[0].text if found else ""

    def check(self, is_so, what):
        if not check(is_so, f"{self.name}: {what}"):
            print("      " + self.driver.current_url + "\n      " + self.text()[:700].replace("\n", "\n      "))

    def login(self):
        self.go("/log?action=drop")
        self.check("/login" in self.driver.current_url, "who is not logged in comes to the login")
        self.fill(name="anna", password="wrong")
        self.press("Log in")
        self.check("name or the password is wrong" in self.text(), "a wrong password is told")
        self.fill(name="anna", password="a long secret")
        self.press("Log in")
        self.check("/log?action=drop" in self.driver.current_url, "after the login they are where they wanted to be")

    def quit(self):
        self.driver.quit()


def notice(shop, buyer, number):
    """A notice of a marketplace that nobody vouches for."""
    text = f"""From: Amazon <auto-communication@amazon.com>
To: shop@shop.example
Date: Wed, 25 Nov 2026 08:00:00 +0000
Subject: Your e-mail could not be delivered
Message-ID: <notice-{number}@amazon.com>
X-Space-Notification-Type: BUYER_OPTED_OUT_BSM_MESSAGES
X-Marketplace-ID: APJ6JRA9NG5V4
MIME-Version: 1.0
Content-Type: text/html; charset=UTF-8

<p>Your message could not be delivered, because the buyer has chosen to opt out of receiving unsolicited messages.</p>
<a href="mailto:{buyer}?subject=x">contact</a>
""".replace("\n", "\r\n")
    return shop.mail("optout@relay.local", sender="auto-communication@amazon.com", content=text.encode())


def walk(has_script, size):
    host = Host()
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(folder, host)
        me = Walk(shop, has_script, size)
        try:
            actions(me, shop, host)
        finally:
            me.quit()
            shop.stop()
            if host.mails:
                host.controller.stop()


def actions(me, shop, host):
    me.login()
    me.go("/")
    me.check("takes mail" in me.text() and me.one(".big").text == "2", "the status is shown")

    # An address: looked at, opted out, tried, let in again.
    me.go("/address")
    me.fill(address="buyer@x.example")
    me.press("Look")
    me.check("Mail to buyer@x.example is forwarded" in me.text(), "a buyer who has not opted out")
    me.fill(reason="asked by <b>phone</b>", action="drop")
    me.press("Opt out")
    me.check("has opted out" in me.told() and "is suppressed" in me.text(), "is opted out")
    me.check("asked by <b>phone</b>" in me.text() and "drop" in me.text(), "with the reason and the action as they were given")
    code, _ = shop.mail("Buyer+7@X.example")
    me.check(code == 250, "a mail to them is taken, and dropped")
    me.go("/address?address=buyer%40x.example")
    eventually(lambda: (me.driver.refresh(), "dropped" in me.text())[1])
    me.check("dropped Buyer+7@X.example" in me.text(), "their history shows it")
    me.unfold("Take the opt-out away")
    me.fill(reason="they asked to hear from us")
    me.press("Take it away", ask=True)
    me.check("is mailed again" in me.told() and "is forwarded" in me.text(), "the opt-out is taken away")
    me.fill(address="no address")
    me.press("Look")
    me.check("is no address" in me.text(), "what is no address is told")

    # The log: filters and pages.
    for number in range(60):
        shop.mail("out@x.example", sender=f"shop{number}@{'b' if number % 2 else 'a'}.example")
    me.go("/log")
    eventually(lambda: (me.driver.refresh(), len(me.driver.find_elements(By.CSS_SELECTOR, ".events > li")) == 50)[1])
    first = me.one(".events > li").text
    me.check("rejected out@x.example from shop59@b.example" in first, "the newest line stands first")
    me.one("a[rel=next]").click()
    me.check("from shop0@a.example" in me.text() and "from shop59@" not in me.text(), "older ones follow on the next page")
    me.go("/log")
    me.fill(action="dropped")
    me.press("Show")
    me.check(me.text().count("dropped Buyer") == 1 and "rejected out@" not in me.text(), "by action")
    me.go("/log")
    me.unfold("More")
    me.fill(sender="@a.example", since="1h")
    me.press("Show")
    me.check("@a.example" in me.text() and "@b.example" not in me.text(), "by sender and time")
    me.fill(since="yesterday")
    me.press("Show")
    me.check("yesterday is no time" in me.text(), "what is no time is told")

    # Held mail: the host is away.
    for number in range(3):
        code, _ = shop.mail(f"held{number}@y.example")
    me.go("/held")
    me.check("3 mails wait" in me.text(), "held mail is shown")
    me.unfold("Drop")
    me.fill(reason="sent twice")
    me.press("Drop it", ask=True)
    me.check("was dropped" in me.told() and "2 mails wait" in me.text(), "one is dropped")
    me.go("/")
    me.check("cannot be reached" in me.text(), "the status tells that the host is away")
    host.controller.start()
    me.go("/held")
    me.press("Try now")
    me.check("to be tried now" in me.told(), "one is tried")
    me.go("/held")
    if me.driver.find_elements(By.XPATH, "//button[normalize-space()='Try all now']"):
        me.press("Try all now")
    me.check(eventually(lambda: len(host.mails) == 2), "both arrive")
    me.check(eventually(lambda: (me.go("/held"), "0 mails wait" in me.text())[1]), "nothing is held any more")

    # What was learned: a person decides.
    for number, buyer in enumerate(["yes@marketplace.amazon.com", "no@marketplace.amazon.com"]):
        notice(shop, buyer, number)
    me.go("/learned")
    me.check(me.text().count("@marketplace.amazon.com") >= 2, "what waits is shown")
    me.press("Turn down", within="li[contains(., 'no@marketplace')]")
    me.check("was turned down" in me.told(), "one is turned down")
    me.press("Opt out", within="li[contains(., 'yes@marketplace')]")
    me.check("has opted out" in me.told(), "one is accepted")
    me.check(shop.mail("yes@marketplace.amazon.com")[0] == 550 and shop.mail("no@marketplace.amazon.com")[0] == 250, "and in force")

    # A test mail.
    me.go("/test")
    me.fill(to="me@z.example", **{"from": "shop@a.example"})
    me.press("Send")
    me.check("The mail was settled" in me.text() and any(to == ["me@z.example"] for _, to in host.mails), "a test mail arrives")
    me.fill(to="out@x.example", **{"from": "shop@a.example"})
    me.press("Send")
    me.check("refuses this recipient" in me.text(), "one to somebody who has opted out does not")

    # What comes from mail is text, everywhere.
    shop.mail(EVIL, helo=EVIL_HELO, message_id=EVIL_ID)
    for path in ("/", "/log", "/address?address=" + urllib.parse.quote(EVIL), "/held", "/learned",
                 "/log?sender=" + urllib.parse.quote('"><script>document.title=7</script>')):
        me.go(path)
        me.check(me.driver.title != "7" and not me.driver.find_elements(By.CSS_SELECTOR, "main img, main script"),
                 f"{path.split('?')[0]} shows script as text")
    me.go("/log")
    eventually(lambda: (me.driver.refresh(), "onerror" in me.text())[1])
    me.check("onerror" in me.text(), "and shows it whole")

    me.press("Log out")
    me.go("/held")
    me.check("/login" in me.driver.current_url, "after leaving nobody is in")
    actions = (shop.folder / "var/log/actions.jsonl").read_text()
    events = re.findall(r'"event":"(\w+)","who":"(\w+)"', actions)
    wanted = ["logged_in", "opt_out_added", "opt_out_removed", "held_dropped", "held_retried", "learned_rejected", "learned_accepted", "test_sent"]
    me.check(list(dict.fromkeys(event for event, _ in events)) == wanted and {who for _, who in events} == {"anna"},
             "every action is on record, with who did it")


PAGES = {
    "login": "/login", "status": "/", "address": "/address?address=out%40x.example", "forwarded": "/address?address=a%40x.example",
    "log": "/log", "held": "/held", "learned": "/learned", "test": "/test",
}


def looks():
    """Every page as it looks, and whether people with other eyes and hands can use it."""
    host = Host()
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(folder, host)
        for number in range(40):
            shop.mail("out@x.example", sender=f"shop{number}@a.example")
        shop.mail("held@y.example")
        notice(shop, "maybe@marketplace.amazon.com", 1)
        for name, size, dark in (("light", (1200, 900), False), ("dark", (1200, 900), True), ("phone", (375, 800), False),
                                 ("phone-dark", (375, 800), True)):
            me = Walk(shop, True, size, dark)
            me.name = name
            try:
                me.go("/")
                me.fill(name="anna", password="a long secret")
                me.press("Log in")
                for page, path in PAGES.items():
                    me.go(path)
                    me.driver.execute_script(AXE)
                    found = me.driver.execute_async_script("const done = arguments[0]; axe.run().then((all) => done(all.violations));")
                    found = [f"{one['impact']}: {one['id']}, {one['nodes'][0]['html'][:150]}" for one in found]
                    me.check(not found, f"{page} keeps nobody out {found or ''}")
                    width = me.driver.execute_script("return document.documentElement.scrollWidth")
                    me.check(width <= size[0], f"{page} is no wider than the screen ({width})")
                    if PICTURES:
                        os.makedirs(PICTURES, exist_ok=True)
                        height = me.driver.execute_script("return document.documentElement.scrollHeight")
                        me.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                            "width": size[0], "height": min(height, 4000), "deviceScaleFactor": 1, "mobile": size[0] < 500})
                        me.driver.save_screenshot(f"{PICTURES}/{page}-{name}.png")
                        me.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                            "width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500})
            finally:
                me.quit()
        shop.stop()


walk(True, (1200, 900))
walk(False, (1200, 900))
walk(True, (375, 800))
looks()
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
