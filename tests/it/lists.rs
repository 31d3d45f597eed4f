//! Opt-out lists: every bad entry is told with its line and what to do, and none is skipped in silence.

use std::path::Path;

use optout_relay::optout::{self, Action, Attributes, Subject};

use crate::config::{announced, files};

type Entry = (u32, Subject, Attributes);

/// The entries of a list of this name and content, or what is wrong with it.
fn read(name: &str, content: &[u8]) -> Result<Vec<Entry>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let mut found = Vec::new();
    let read = optout::read(&path, &mut |line, subject, attributes| found.push((line, subject, attributes)));
    read.map(|()| found).map_err(|fault| fault.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

#[test]
fn every_bad_list_is_told_as_it_announces() {
    let files = files("bad_lists");
    for path in &files {
        let bytes = std::fs::read(path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        // CSV has no comments: there the announcement is taken away first.
        let second = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0;
        let content = if name.ends_with(".csv") { &bytes[second + 1..] } else { &bytes[..] };
        let told = read(name, content).err().unwrap_or_else(|| panic!("{name} is taken"));
        assert_eq!(told, announced(&String::from_utf8_lossy(&bytes)), "{name}");
        assert!(told.bytes().filter(|byte| *byte == b'\n').count() == 1 && told.len() < 400, "{told}");
    }
    assert_eq!(files.len(), 69);
}

#[test]
fn a_list_that_is_not_there_or_no_file_is_told() {
    let fault = optout::read(Path::new("nowhere.toml"), &mut |_, _, _| ()).unwrap_err().to_string();
    let expected = "nowhere.toml: cannot be read: No such file or directory (os error 2)\nhint: create the file, or take it out of the configuration";
    assert_eq!(fault, expected);
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.toml");
    std::fs::create_dir(&list).unwrap();
    let fault = optout::read(&list, &mut |_, _, _| ()).unwrap_err().to_string();
    assert!(fault.contains("list.toml: cannot be read: Is a directory"), "{fault}");
}

#[test]
fn what_is_odd_but_plain_is_taken_whole() {
    let names = |name: &str, text: &str| -> Vec<_> {
        let found = read(name, text.as_bytes()).unwrap_or_else(|told| panic!("{told}"));
        found.iter().map(|(line, subject, _)| format!("{line} {} {subject}", subject.kind())).collect()
    };
    assert_eq!(
        names("l.csv", "Name,E-Mail,Street\n\"Doe, J.\",a@b.example,\"12 Way\nTown\"\n,C@D.example,\n"),
        ["2 address a@b.example", "4 address c@d.example"]
    );
    assert_eq!(
        names("l.csv", "\u{feff}email\ta\r\na@b.example\tx\r\n\r\n*.x.example\t\"q\"\r\n"),
        ["2 address a@b.example", "4 subdomains *.x.example"]
    );
    assert_eq!(
        names("l.txt", "SHA256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"),
        ["1 sha256 sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
    );
    assert_eq!(
        names("L.TXT", "\n\n@Bücher.example\n\"a b\"@x.example"),
        ["3 domain xn--bcher-kva.example", "4 address \"a b\"@x.example"]
    );
    assert_eq!(names("l.toml", ""), [""; 0]);
}

#[test]
fn what_stands_beside_an_entry_is_read_alike_in_every_form() {
    let toml = "[[opt_out]]\naddress = \"a@b.example\"\nsince = 2017-03-27\nuntil = 2030-01-01\nreason = \"r\"\nsource = \"s\"\naction = \"drop\"\nsenders = [\"*@Bücher.example\", \"X@y.example\"]\nnote = \"n\"\n";
    let csv = "address,since,until,reason,source,action,senders,note\na@b.example,2017-03-27,2030-01-01,r,s,Drop,*@Bücher.example X@y.example,n\n";
    let (toml, csv) = (read("l.toml", toml.as_bytes()).unwrap(), read("l.csv", csv.as_bytes()).unwrap());
    assert_eq!(toml[0].2, csv[0].2);
    let Attributes { action, senders, until, .. } = &toml[0].2;
    assert_eq!((*action, senders.join(" ").as_str()), (Some(Action::Drop), "*@xn--bcher-kva.example x@y.example"));
    assert_eq!(until.unwrap().to_string(), "2030-01-01T23:59:59.999999999Z");
}
