//! What hosts say about a mail's sender: `Authentication-Results` (RFC 8601), as far as it vouches for somebody. Pure; never
//! verifies a signature itself.

/// One field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthResult {
    /// The host that says so (RFC 8601 2.5), in small letters.
    pub authserv: String,
    /// A DKIM or DMARC pass, for a domain that vouches.
    pub passed: bool,
}

/// Reads the values of all fields, unfolded.
pub fn results(fields: &[String], vouches: impl Fn(&str) -> bool) -> Vec<AuthResult> {
    fields.iter().filter_map(|field| result(field, &vouches)).collect()
}

fn result(field: &str, vouches: &impl Fn(&str) -> bool) -> Option<AuthResult> {
    let field = without_comments(field);
    let mut parts = field.split(';').map(str::trim);
    // The host may be followed by a version.
    let authserv = parts.next()?.split_whitespace().next()?.trim_matches('"').to_ascii_lowercase();
    let passed = parts.any(|part| passes(part, vouches));
    Some(AuthResult { authserv, passed })
}

/// `dkim=pass header.d=amazon.com`, `dmarc=pass header.from=amazon.com`
fn passes(part: &str, vouches: &impl Fn(&str) -> bool) -> bool {
    let mut words = part.split_whitespace();
    let Some((method, outcome)) = words.next().and_then(|word| word.split_once('=')) else { return false };
    let method = method.split('/').next().unwrap_or_default();
    let properties: &[&str] = match () {
        () if !outcome.eq_ignore_ascii_case("pass") => return false,
        () if method.eq_ignore_ascii_case("dkim") => &["header.d", "header.i"],
        () if method.eq_ignore_ascii_case("dmarc") => &["header.from"],
        () => return false,
    };
    words.filter_map(|word| word.split_once('=')).any(|(name, value)| {
        let domain = value.trim_matches('"').rsplit('@').next().unwrap_or_default();
        properties.iter().any(|known| name.eq_ignore_ascii_case(known)) && vouches(domain)
    })
}

/// Comments may stand anywhere, and within one another (RFC 5322 3.2.2).
fn without_comments(field: &str) -> String {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let kept = field.chars().filter(|c| {
        if std::mem::take(&mut escaped) {
            return depth == 0;
        }
        match c {
            '\\' => escaped = true,
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth > 0 => {
                depth -= 1;
                return false;
            }
            _ => {}
        }
        depth == 0
    });
    // A blank in the place of each would be right, and means nothing here.
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pass_for_the_domain_vouches() {
        for (field, authserv, passed) in [
            ("mx.shop.example; dkim=pass header.d=amazon.com header.s=x", "mx.shop.example", true),
            (
                "MX.shop.example 1; spf=pass smtp.mailfrom=x; dkim=pass (2048-bit key; ok) header.i=@amazon.com",
                "mx.shop.example",
                true,
            ),
            ("mx; dmarc=pass (p=quarantine (a) b) header.from=amazon.com", "mx", true),
            ("mx; dkim=fail header.d=amazon.com; dkim=pass header.d=evil.example", "mx", false),
            ("mx; dkim=pass (header.d=amazon.com) header.d=evil.example", "mx", false),
            ("mx; dkim=pass reason=\"header.d=amazon.com\" header.d=evil.example", "mx", false),
            ("mx; spf=pass header.from=amazon.com; x-dkim=pass header.d=amazon.com", "mx", false),
            ("mx; none", "mx", false),
            ("mx; dkim=pass header.d=amazon.com.evil.example", "mx", false),
        ] {
            let found = results(&[field.to_owned()], |domain| domain == "amazon.com");
            assert_eq!(found, [AuthResult { authserv: authserv.into(), passed }], "{field}");
        }
        assert_eq!(results(&["".into(), "(x)".into()], |_| true), []);
    }
}
