//! What a host says about a mail's sender (RFC 8601). Never checks a signature.

use crate::learn::notice::AuthResult;
use crate::mail::{clean, domain_key};

/// Bytes of a host's name.
const MAX_HOST: usize = 255;

/// One field `Authentication-Results`. Passed is what DKIM or DMARC says of one of the domains, exactly.
pub fn read(field: &str, domains: &[String]) -> Option<AuthResult> {
    let pieces = pieces(field);
    let (host, results) = pieces.split_first()?;
    let authserv = host.first().filter(|host| !host.contains('='))?;
    let passed = results.iter().any(|words| passes(words, domains));
    Some(AuthResult { authserv: clean(authserv, MAX_HOST), passed })
}

fn passes(words: &[String], domains: &[String]) -> bool {
    let Some((method, properties)) = words.split_first() else { return false };
    let Some((method, result)) = method.split_once('=') else { return false };
    // A version may stand behind the method.
    let method = method.split('/').next().unwrap_or_default();
    let about = |name: &str| {
        let named = |word: &&String| word.split_once('=').is_some_and(|(known, _)| known.eq_ignore_ascii_case(name));
        properties.iter().find(named).and_then(|word| word.split_once('=')).map(|(_, value)| value)
    };
    let domain = match method.to_ascii_lowercase().as_str() {
        "dkim" => about("header.d").or_else(|| about("header.i").and_then(|who| who.rsplit('@').next())),
        "dmarc" => about("header.from").and_then(|who| who.rsplit('@').next()),
        _ => None,
    };
    result.eq_ignore_ascii_case("pass") && domain.is_some_and(|domain| domains.iter().any(|known| **known == *domain_key(domain)))
}

/// The words between semicolons, without comments and quotes; `a = b` is one word.
fn pieces(field: &str) -> Vec<Vec<String>> {
    let (mut pieces, mut words, mut word) = (Vec::new(), Vec::new(), String::new());
    let (mut comments, mut quoted, mut escaped) = (0_usize, false, false);
    for c in field.chars() {
        let is_hidden = comments > 0;
        match c {
            _ if escaped => {
                escaped = false;
                if !is_hidden {
                    word.push(c);
                }
            }
            '\\' if quoted || is_hidden => escaped = true,
            '"' if !is_hidden => quoted = !quoted,
            c if quoted => word.push(c),
            '(' => comments += 1,
            ')' => comments = comments.saturating_sub(1),
            _ if is_hidden => {}
            ';' => {
                end_word(&mut word, &mut words);
                pieces.push(std::mem::take(&mut words));
            }
            c if c.is_whitespace() => end_word(&mut word, &mut words),
            '=' if word.is_empty() && !words.is_empty() => word = words.pop().unwrap_or_default() + "=",
            c if word.is_empty() && words.last().is_some_and(|before: &String| before.ends_with('=')) => {
                word = words.pop().unwrap_or_default();
                word.push(c);
            }
            c => word.push(c),
        }
    }
    end_word(&mut word, &mut words);
    pieces.push(words);
    pieces
}

fn end_word(word: &mut String, words: &mut Vec<String>) {
    if !word.is_empty() {
        words.push(std::mem::take(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pass_for_a_domain_of_the_sender_counts() {
        let domains = ["amazon.com".to_owned(), "amazon.it".to_owned()];
        for (field, passed) in [
            ("mx.shop.example; dkim=pass header.d=amazon.com", true),
            ("mx.shop.example 1; spf=pass; DKIM = PASS (2048-bit; ok) header.i=@Amazon.com header.s=x", true),
            ("mx.shop.example; dkim=fail header.d=amazon.com; dmarc=pass (p=QUARANTINE) header.from=amazon.it", true),
            ("mx.shop.example; dkim=pass header.d=\"amazon.com\"", true),
            ("mx.shop.example; dkim/1=pass header.d=amazon.com", true),
            ("mx.shop.example; dkim=pass header.d=amazonses.com", false),
            ("mx.shop.example; dkim=pass header.d=amazon.com.evil.example", false),
            ("mx.shop.example; dkim=pass header.d=marketplace.amazon.com", false),
            ("mx.shop.example; spf=pass smtp.mailfrom=amazon.com", false),
            ("mx.shop.example; dkim=fail (dkim=pass header.d=amazon.com)", false),
            ("mx.shop.example; dkim=none reason=\"dkim=pass header.d=amazon.com\"", false),
            ("mx.shop.example; dkim=none reason=\"x; dkim=pass header.d=amazon.com\"", false),
            ("mx.shop.example; dkim=passed header.d=amazon.com", false),
            ("mx.shop.example; none", false),
            ("mx.shop.example", false),
        ] {
            let expected = AuthResult { authserv: "mx.shop.example".into(), passed };
            assert_eq!(read(field, &domains), Some(expected), "{field}");
        }
        assert_eq!(read("dkim=pass header.d=amazon.com", &domains), None);
        assert_eq!(read("", &domains), None);
    }
}
