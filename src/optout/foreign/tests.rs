use super::*;

/// Each row as `line kind entry (what stands beside it)`.
fn told(name: &str, text: &str, manner: &Manner) -> Result<(Vec<String>, Option<Provider>), String> {
    let mut rows = Vec::new();
    let provider = read_foreign(Path::new(name), text.as_bytes(), manner, &mut |line, found| {
        rows.push(match found {
            Found::Entry(subject, Attributes { since, until, reason, action, senders, .. }) => {
                let beside = [since, reason, until.map(|until| until.to_string()), action.map(|action| action.to_string())];
                let beside: Vec<_> = beside.into_iter().flatten().chain(senders).collect();
                format!("{line} {} {subject} ({})", subject.kind(), beside.join(", "))
            }
            Found::Other => format!("{line} other"),
            Found::Wrong(message) => format!("{line} wrong: {message}"),
        });
        Ok(())
    });
    provider.map(|provider| (rows, provider)).map_err(|ended| ended.to_string())
}

fn rows(name: &str, text: &str) -> Vec<String> {
    told(name, text, &Manner::default()).unwrap().0
}

fn of(form: Form) -> Manner {
    Manner { form, columns: Vec::new() }
}

#[test]
fn exports_of_providers_are_known_by_their_columns() {
    let epoch = "2015-10-01";
    for (provider, text, entry) in [
        (
            Provider::Ses,
            "{\"SuppressedDestinationSummaries\":[{\"EmailAddress\":\"a@x.example\",\"Reason\":\"COMPLAINT\",\"LastUpdateTime\":\"2020-04-10T21:03:05.370000-04:00\"}],\"NextToken\":null}",
            "1 address a@x.example (2020-04-11, COMPLAINT)".into(),
        ),
        (Provider::SendGrid, "email,created\na@x.example,1443657641\n", format!("2 address a@x.example ({epoch})")),
        (
            Provider::SendGrid,
            "[{\"created\": 1443657641, \"email\": \"a@x.example\", \"reason\": \"550 no\"}]",
            format!("1 address a@x.example ({epoch}, 550 no)"),
        ),
        (
            Provider::Mailgun,
            "address,tags,created_at\na@x.example,*,\"Fri, 21 Oct 2011 11:02:55 UTC\"\n",
            "2 address a@x.example (2011-10-21)".into(),
        ),
        (
            Provider::Mailgun,
            "{\"items\":[{\"address\":\"a@x.example\",\"tags\":[\"*\",\"b@x.example\"],\"created_at\":\"Fri, 21 Oct 2011 11:02:55 UTC\"}],\"paging\":{\"next\":\"https://x.example/?address=c%40x.example\"}}",
            "1 address a@x.example (2011-10-21)".into(),
        ),
        (
            Provider::Postmark,
            "{\"Suppressions\":[{\"EmailAddress\":\"a@x.example\",\"SuppressionReason\":\"ManualSuppression\",\"Origin\":\"Recipient\",\"CreatedAt\":\"2019-12-10T08:58:33-05:00\"}]}",
            "1 address a@x.example (2019-12-10, ManualSuppression)".into(),
        ),
        (
            Provider::Mailchimp,
            "\"Email Address\",\"First Name\",MEMBER_RATING,UNSUB_TIME,UNSUB_REASON,LEID,EUID,NOTES\na@x.example,Anna,2,\"2020-01-02 03:04:05\",NORMAL,1,2,\"a, \"\"b\"\"\nc\"\n",
            "2 address a@x.example (2020-01-02, NORMAL)".into(),
        ),
    ] {
        assert_eq!(told("export", text, &Manner::default()), Ok((vec![entry], Some(provider))), "{text}");
    }
    // As the import of SES takes it: without a row of names.
    let told = told("export", "a@x.example,BOUNCE\nb@x.example, COMPLAINT\n", &of(Form::Of(Provider::Ses))).unwrap().0;
    assert_eq!(told, ["1 address a@x.example (BOUNCE)", "2 address b@x.example (COMPLAINT)"]);
}

#[test]
fn a_list_of_subscribers_is_not_taken_for_opt_outs() {
    let subscribers = "Email Address,MEMBER_RATING,LEID,EUID\na@x.example,2,1,2\n";
    let fault = told("subscribed.csv", subscribers, &Manner::default()).unwrap_err();
    assert!(fault.contains("subscribed.csv:1: lists subscribers, not who has opted out"), "{fault}");
    let fault = told("x.csv", "Email,Name\na@x.example,A\n", &of(Form::Of(Provider::Mailgun))).unwrap_err();
    assert!(fault.contains("it has not the columns address, createdat"), "{fault}");
}

#[test]
fn columns_may_be_named() {
    let named =
        |columns: &[&str]| Manner { form: Form::Csv, columns: columns.iter().map(|text| Column::parse(text).unwrap()).collect() };
    let text = "Nr;Käufer-Mail;email;wann\n1;A@x.example;clerk@x.example;2020-01-02\n\n2;;clerk@x.example;\n";
    let manner = named(&["address=käufer mail", "since=4"]);
    let expected = [
        "2 address a@x.example (2020-01-02)",
        "4 wrong: the entry names nobody; it needs an address, a domain, a pattern, a hash or an order",
    ];
    assert_eq!(told("x", text, &manner).unwrap().0, expected);
    let fault = told("x", "Nr;wann\n1;2020\n", &of(Form::Csv)).unwrap_err();
    assert!(fault.contains("x:1: has no column of addresses among `Nr`, `wann`"), "{fault}");
    for (text, expected) in [("address", "FIELD=NAME"), ("adress=x", "there is no field of that name"), ("address= ", "no name")]
    {
        let error = Column::parse(text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn tables_need_no_row_of_names() {
    assert_eq!(rows("x.csv", "Anna,a@x.example\nBea,b@x.example\n"), ["1 address a@x.example ()", "2 address b@x.example ()"]);
    assert_eq!(
        rows("x", "1\ta@x.example\n2\tinfo@\n")[1],
        "2 wrong: `info@` is not an address: the part after the @ is not a domain"
    );
}

#[test]
fn what_is_no_entry_is_told_with_its_line_and_ends_nothing() {
    let expected = [
        "2 address a@x.example ()",
        "3 wrong: `info@` is not an address: the part after the @ is not a domain",
        "5 domain x.example ()",
    ];
    assert_eq!(rows("x.txt", "# all\na@x.example # him\r\ninfo@\n\nx.example"), expected);
    let hashes = "d41d8cd98f00b204e9800998ecf8427e\nE3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855\n";
    let told = rows("x", hashes);
    assert!(told[0].starts_with("1 md5 md5:d41d8cd9") && told[1].starts_with("2 sha256 sha256:e3b0c442"), "{told:?}");
    // Latin-1 in a name does no harm; in an address it does.
    let mut found = Vec::new();
    let text = b"email,name\na@x.example,J\xfcrgen\nj\xfcrgen@x.example,J\n";
    read_foreign(Path::new("x"), &text[..], &Manner::default(), &mut |line, row| {
        found.push((line, matches!(row, Found::Entry(..))));
        Ok(())
    })
    .unwrap();
    assert_eq!(found, [(2, true), (3, false)]);
}

#[test]
fn access_tables_say_whose_mail_is_stopped() {
    let text = "# buyers\na@x.example REJECT asked on\n   the telephone\nx.example\tDISCARD\n.y.example 550 5.7.1 no\nuser@ REJECT\nfriend@x.example OK\nodd@x.example FROBNICATE\n";
    let expected = [
        "2 address a@x.example (asked on   the telephone)",
        "4 domain x.example (drop)",
        "4 subdomains *.x.example (drop)",
        "5 subdomains *.y.example (5.7.1 no)",
        "6 pattern user@* ()",
        "7 other",
        "8 wrong: `FROBNICATE` is not an action that is known here; write REJECT, DISCARD or OK",
    ];
    assert_eq!(rows("access", text), expected);
}

#[test]
fn json_comes_in_pages_lines_and_lists() {
    let two = ["1 address a@x.example ()", "2 address b@x.example ()"];
    for text in [
        "[\"a@x.example\", \"b@x.example\"]",
        "{\"email\":\"a@x.example\"}\n{\"email\":\"b@x.example\",\"tags\":[\"c@x.example\"]}\n",
        "{\"items\":[{\"address\":\"a@x.example\"}]}\n{\"items\":[{\"address\":\"b@x.example\"}],\"paging\":{}}",
        "\u{feff} {\"data\":{\"list\":[{\"E-Mail\":\"a@x.example\"},{\"E-Mail\":\"b@x.example\",\"more\":{\"email\":\"c@x.example\"}}]}}",
    ] {
        assert_eq!(rows("x", text), two, "{text}");
    }
    let told = rows("x", "[{\"email\":null},{\"name\":\"x\"},{\"email\":\"info@\"},7]");
    assert!(told.len() == 4 && told.iter().all(|row| row.contains("wrong")), "{told:?}");
    let fault = told_fault("[{\"email\":\"a@x.example\"},\n{\"email\" \"b@x.example\"}]");
    assert!(fault.starts_with("x:2:") && fault.contains("is not JSON: expected `:`"), "{fault}");
    assert!(told_fault("[{\"email\":\"a@x.example\"}").contains("is not JSON: EOF"));
}

fn told_fault(text: &str) -> String {
    told("x", text, &Manner::default()).unwrap_err()
}

#[test]
fn nothing_is_taken_into_memory_without_end() {
    let open = format!("email,note\na@x.example,\"{}", "x\n".repeat(MAX_ROW));
    let line = "x".repeat(10_000);
    let key = format!("[{{\"{}", "k".repeat(3 * MAX_ROW));
    for (text, expected) in [
        (open.as_str(), "one row is longer than 1 MiB"),
        (line.as_str(), "x:1: is longer than any entry"),
        (key.as_str(), "one row is longer than 1 MiB"),
        ("email,note\na@x.example,\"open\nb@x.example,\n", "x:2: a quote that is not closed"),
        ("email,note\na@x.example,\"open\n", "a quote that is not closed"),
    ] {
        let fault = told_fault(text);
        assert!(fault.contains(expected), "{fault}\nwants: {expected}");
    }
    let deep = "[".repeat(100_000);
    assert!(told("x", &deep, &of(Form::Json)).unwrap_err().contains("recursion limit"));
}

#[test]
fn what_is_packed_is_unpacked() {
    use std::io::Write as _;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"email,created\na@x.example,\n").unwrap();
    let mut count = 0;
    read_foreign(Path::new("x.csv.gz"), &packed.finish().unwrap()[..], &Manner::default(), &mut |_, found| {
        count += usize::from(matches!(found, Found::Entry(..)));
        Ok(())
    })
    .unwrap();
    assert_eq!(count, 1);
}

#[test]
fn whoever_takes_the_rows_may_end_it() {
    for text in ["[\"a@x.example\"]", "a@x.example\n", "email\na@x.example\n", "a@x.example REJECT\n"] {
        let ended = read_foreign(Path::new("x"), text.as_bytes(), &Manner::default(), &mut |_, _| Err(io::Error::other("full")));
        assert!(matches!(ended, Err(Ended::Taker(error)) if error.to_string() == "full"), "{text}");
    }
}

#[test]
fn nobody_is_lost_in_a_row_that_names_several() {
    let two = "the entry names two; give each an entry of its own";
    for (text, line) in [
        ("a@x.example,b@x.example,c@x.example\n", 1),
        ("a@x.example,\nb@x.example,c@x.example\n", 2),
        ("email\na@x.example\nb@x.example,c@x.example\n", 3),
    ] {
        let found = rows("x.csv", text);
        assert_eq!(found[line - 1 - usize::from(text.starts_with("email"))], format!("{line} wrong: {two}"), "{text}");
        assert!(!found.iter().any(|row| row.contains(" c@x")), "{found:?}");
    }
    // Whoever names the column means the others to be somebody else.
    let manner = Manner { form: Form::Csv, columns: vec![Column::parse("address=2").unwrap()] };
    assert_eq!(told("x", "clerk@x.example,a@x.example\n", &manner).unwrap().0, ["1 address a@x.example ()"]);
}

#[test]
fn the_first_row_is_no_row_of_names_where_it_names_somebody() {
    let manner = Manner { form: Form::Csv, columns: vec![Column::parse("address=1").unwrap()] };
    let md5 = "d41d8cd98f00b204e9800998ecf8427e";
    let first = |text: &str| told("x", text, &manner).unwrap().0.swap_remove(0);
    assert!(first("Anna <a@x.example>,2020\nb@x.example,2020\n").starts_with("1 wrong: `Anna <a@x.example>`"));
    assert_eq!(first(&format!("{md5}\n{md5}\n")), format!("1 md5 md5:{md5} ()"));
    assert_eq!(first("whom,when\nb@x.example,2020\n"), "2 address b@x.example ()");
    let swallowing = "email,\"note\na@x.example,x\nb@x.example,\"y\nc@x.example,z\n";
    assert!(told("x", swallowing, &Manner::default()).unwrap_err().contains("a quote that is not closed"));
}

#[test]
fn tabs_make_no_table_of_an_access_table() {
    assert_eq!(
        rows("access", "a@x.example\tREJECT\nb@x.example\tOK\n.c@x.example REJECT\n"),
        ["1 address a@x.example ()", "2 other", "3 address .c@x.example ()"]
    );
    assert_eq!(rows("x.txt", "{a}@x.example\n"), ["1 address {a}@x.example ()"]);
    assert_eq!(rows("x", "email\tinfo\na@x.example\tx\n"), ["2 address a@x.example ()"]);
}

#[test]
fn a_list_that_is_read_whole_is_not_read_without_end() {
    let ended = read_foreign(Path::new("x.toml"), io::repeat(b'#'), &Manner::default(), &mut |_, _| Ok(()));
    assert!(ended.unwrap_err().to_string().contains("x.toml: is longer than any list of this form"));
}
