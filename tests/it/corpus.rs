//! The corpora of the fuzz targets, without a fuzzer: every file goes through the check of its target. What a fuzzer has
//! found once is found by this test for ever.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "../../fuzz/checks/mod.rs"]
mod checks;

/// No corpus is smaller; a reader of nothing finds nothing.
const MIN_FILES: usize = 25;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_corpus_passes_its_check() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut broken = Vec::new();
    for (target, check) in checks::TARGETS {
        let files = files(&corpora.join(target));
        assert!(files.len() >= MIN_FILES, "only {} files for {target}", files.len());
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            if catch_unwind(|| check(&bytes)).is_err() {
                broken.push(file);
            }
        }
    }
    assert!(broken.is_empty(), "a promise is broken by {broken:#?}");
    assert_eq!(files(&corpora).len(), checks::TARGETS.len(), "a corpus that nobody checks");
}

/// Each target has a program for the fuzzer.
#[test]
fn every_check_is_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (target, _) in checks::TARGETS {
        let program = std::fs::read_to_string(folder.join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(program.contains(&format!("checks::{target}::check(bytes)")), "{target}");
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not built");
    }
    assert_eq!(files(&folder.join("fuzz_targets")).len(), checks::TARGETS.len());
}
