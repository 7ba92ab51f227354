//! The image's Dockerfile: no Docker is at hand, so it is linted, and each of its steps is held against the project.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{PROJECT, said};

fn dockerfile() -> String {
    fs::read_to_string(format!("{PROJECT}/deploy/image/Dockerfile")).unwrap()
}

/// What is copied from the context, in the order of the steps.
fn copied() -> Vec<String> {
    let text = dockerfile();
    let copies = text.lines().filter_map(|line| line.strip_prefix("COPY "));
    let sources = copies.filter(|line| !line.starts_with("--from")).flat_map(|line| {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        words[..words.len() - 1].to_vec()
    });
    sources.collect()
}

#[test]
fn hadolint_finds_nothing() {
    let setup = Command::new(format!("{PROJECT}/sandbox/conformance/setup"))
        .output()
        .unwrap();
    assert!(setup.status.success(), "{}", said(&setup));
    let python = String::from_utf8(setup.stdout).unwrap();
    let hadolint = Path::new(python.trim()).with_file_name("hadolint");
    let output = Command::new(hadolint)
        .arg(format!("{PROJECT}/deploy/image/Dockerfile"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn all_that_is_copied_is_there_and_sent() {
    let ignore = fs::read_to_string(format!("{PROJECT}/deploy/image/Dockerfile.dockerignore")).unwrap();
    let sent: BTreeSet<_> = ignore
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .map(str::to_owned)
        .collect();
    let copied = copied();
    for path in &copied {
        assert!(Path::new(PROJECT).join(path).exists(), "{path}");
    }
    assert_eq!(sent, copied.into_iter().collect());
}

/// The first layer builds what others wrote, from manifests and empty programs alone.
#[test]
fn the_layer_of_dependencies_stands_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for path in copied().iter().take_while(|path| *path != "src") {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::copy(Path::new(PROJECT).join(path), at(path)).unwrap();
    }
    let script = dockerfile();
    let script = script.split_once("RUN ").unwrap().1.split_once("COPY ").unwrap().0;
    // The build itself takes minutes: what it would build, and that the lock holds, shows without.
    let plan = script.replace("\\\n", " ").replace(
        "cargo build --profile dist --locked --package cache-broker",
        "cargo metadata --offline --locked --format-version=1 > plan.json",
    );
    assert!(plan.contains("cargo metadata"), "{plan}");
    let output = Command::new("sh")
        .args(["-euc", &plan])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let plan = fs::read_to_string(at("plan.json")).unwrap();
    for package in ["kube-runtime", "tokio-postgres", "aws-sdk-elasticache"] {
        assert!(plan.contains(&format!("\"name\":\"{package}\"")), "{package}");
    }
}

/// The second layer has every file that the sources name.
#[test]
fn the_sources_ask_for_no_file_that_is_not_copied() {
    let copied = copied();
    let mut folders = vec![Path::new(PROJECT).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            // Tests are not built into the image.
            let code = text.split("#[cfg(test)]").next().unwrap();
            if path.file_stem().unwrap().to_str().unwrap().ends_with("tests") {
                continue;
            }
            for rest in code
                .split("include_str!(\"")
                .chain(code.split("include_bytes!(\""))
                .skip(1)
            {
                let Some((named, _)) = rest.split_once("\")") else {
                    continue;
                };
                if !named.starts_with("../") {
                    continue;
                }
                let file = path.parent().unwrap().join(named).canonicalize().unwrap();
                let file = file
                    .strip_prefix(Path::new(PROJECT).canonicalize().unwrap())
                    .unwrap()
                    .to_owned();
                assert!(
                    copied.iter().any(|copied| file.starts_with(copied)),
                    "{} asks for {}",
                    path.display(),
                    file.display()
                );
            }
        }
    }
}

#[test]
fn it_runs_as_nobody_in_particular_by_the_names_it_always_had() {
    let text = dockerfile();
    let last = text.rsplit("FROM ").next().unwrap();
    assert!(
        last.contains("USER 65532:65532") && last.contains("ENTRYPOINT [\"/app/cache-broker\"]"),
        "{last}"
    );
    assert!(!last.contains("RUN "), "the base has no shell: {last}");
    for name in ["start.sh", "start-background.sh", "servicebroker"] {
        assert!(text.contains(&format!("ln -s cache-broker /out/{name}")), "{name}");
        // As the image has it: a name of the program.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::os::unix::fs::symlink(crate::BROKER, &path).unwrap();
        let output = Command::new(&path).env_clear().output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("DATABASE_URL is not set"), "{said}");
        let asks_for_credentials = said.contains("OSB_CREDENTIALS_FILE is not set");
        assert_eq!(asks_for_credentials, name != "start-background.sh", "{said}");
        assert!(!said.contains("TLS_CERT_FILE"), "{said}");
    }
}
