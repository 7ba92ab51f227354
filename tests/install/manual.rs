//! The blocks of `sh` in the docs.

use std::fs;

use crate::PROJECT;

/// A block of commands.
pub struct Block {
    /// File and line.
    pub place: String,
    pub text: String,
    /// Whether the tests run it.
    pub is_run: bool,
}

/// The blocks of a Markdown file in their order.
pub fn blocks(file: &str) -> Vec<Block> {
    let text = fs::read_to_string(format!("{PROJECT}/{file}")).unwrap();
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```sh") else {
            continue;
        };
        let body: Vec<_> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        found.push(Block {
            place: format!("{file}:{}", number + 1),
            text: body.join("\n"),
            is_run: info.trim().is_empty(),
        });
    }
    found
}

/// The files that have commands, each with how many blocks of them are not run. Those of docs/MIGRATING.md are typed beside the old
/// broker's things (`tests/e2e/import.rs`), all others here.
const FILES: [(&str, usize); 5] = [
    ("README.md", 0),
    ("deploy/README.md", 0),
    ("docs/MIGRATING.md", 0),
    ("docs/OPERATIONS.md", 3),
    ("docs/PLANS.md", 0),
];

#[test]
fn a_block_that_is_not_run_says_why_and_they_are_few() {
    let mut total = 0;
    for (file, most) in FILES {
        let all = blocks(file);
        total += all.len();
        let left: Vec<_> = all.iter().filter(|block| !block.is_run).collect();
        assert!(
            left.len() <= most,
            "{:?}",
            left.iter().map(|block| &block.place).collect::<Vec<_>>()
        );
        let text = fs::read_to_string(format!("{PROJECT}/{file}")).unwrap();
        for line in text.lines().filter(|line| line.starts_with("```sh ")) {
            assert!(line.starts_with("```sh (not run: ") && line.ends_with(')'), "{line}");
        }
        // Whatever is run has at least the syntax of a shell.
        for block in &all {
            let output = std::process::Command::new("bash")
                .args(["-n", "-c", &block.text])
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}: {}",
                block.place,
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    assert!(total > 25, "{total}");
}

/// All Markdown files.
fn manual() -> Vec<String> {
    let mut files = Vec::new();
    for folder in [".", "deploy", "docs"] {
        for entry in fs::read_dir(format!("{PROJECT}/{folder}")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                files.push(format!("{folder}/{name}").trim_start_matches("./").to_owned());
            }
        }
    }
    files.sort();
    files
}

#[test]
fn no_other_file_has_commands() {
    let mut found = manual();
    found.retain(|file| !blocks(file).is_empty());
    assert_eq!(found, FILES.map(|(file, _)| file));
}

#[test]
fn what_is_named_as_a_file_or_folder_is_there() {
    // In code spans, with a folder in front; those of the sources are also named from `src` or a provider on.
    let tops = ["", "src", "src/provider"];
    let folders: Vec<_> = tops
        .iter()
        .flat_map(|top| fs::read_dir(format!("{PROJECT}/{top}")).unwrap())
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name != "target")
        .collect();
    let mut named = 0;
    for file in manual() {
        let text = fs::read_to_string(format!("{PROJECT}/{file}")).unwrap();
        for span in text.split('`').skip(1).step_by(2) {
            let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
            let folder = span.split_once('/').map(|(folder, _)| folder);
            if !span.chars().all(is_path) || !folder.is_some_and(|folder| folders.iter().any(|known| known == folder)) {
                continue;
            }
            named += 1;
            assert!(
                tops.iter()
                    .any(|top| fs::exists(format!("{PROJECT}/{top}/{span}")).unwrap()),
                "{file} names {span}"
            );
        }
    }
    assert!(named > 40, "{named}");
}
