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

#[test]
fn a_block_that_is_not_run_says_why_and_they_are_few() {
    let all = blocks("docs/OPERATIONS.md");
    let left: Vec<_> = all.iter().filter(|block| !block.is_run).collect();
    assert!(all.len() > 15, "{}", all.len());
    assert!(
        left.len() <= 3,
        "{:?}",
        left.iter().map(|block| &block.place).collect::<Vec<_>>()
    );
    let text = fs::read_to_string(format!("{PROJECT}/docs/OPERATIONS.md")).unwrap();
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
