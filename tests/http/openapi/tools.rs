//! `/openapi.json` as tools of others read it: Redocly's linter, openapi-typescript and openapi-python-client, whose
//! output is compiled or imported. `test.sh` installs them below `target/`; without them the tests say that they are
//! skipped. Schemathesis, which sends requests for minutes, is run by hand: see docs/testing.md.

use super::Document;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A program of the npm packages that `test.sh` has installed.
pub fn npm(name: &str) -> Option<PathBuf> {
    let path = root().join("target/npm-tools/node_modules/.bin").join(name);
    if !path.exists() {
        eprintln!("skipped: no {name} in target/npm-tools; ./test.sh installs it where it can");
    }
    path.exists().then_some(path)
}

/// What a command says; it has to succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = text_of(&output);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// Number of methods of all paths.
fn operations() -> usize {
    Document::new(&std::fs::read(root().join("static/openapi.json")).unwrap()).operations().len()
}

#[test]
fn redocly_finds_no_fault() {
    let Some(redocly) = npm("redocly") else { return };
    let mut lint = Command::new(redocly);
    lint.args(["lint", "--format=stylish", "static/openapi.json"]).current_dir(root());
    let text = run(lint.env("REDOCLY_TELEMETRY", "off").env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true"));
    assert!(text.contains("is valid") && !text.contains("warning  "), "{text}");
}

#[test]
fn typescript_of_every_operation_compiles() {
    let (Some(generator), Some(compiler)) = (npm("openapi-typescript"), npm("tsc")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let types = folder.path().join("api.ts");
    run(Command::new(generator).arg(root().join("static/openapi.json")).arg("-o").arg(&types));
    run(Command::new(compiler).args(["--noEmit", "--strict", "--target", "es2022"]).arg(&types));
    let text = std::fs::read_to_string(types).unwrap();
    assert_eq!(text.matches(": operations[\"").count(), operations());
}

#[test]
fn a_python_client_of_every_operation_can_be_imported() {
    let packages = root().join("target/openapi-python-client");
    let python = || {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", &packages);
        command
    };
    if !python().args(["-m", "openapi_python_client", "--version"]).output().is_ok_and(|it| it.status.success()) {
        return eprintln!("skipped: no openapi-python-client in target/; ./test.sh installs it where it can");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut generate = python();
    generate.args(["-m", "openapi_python_client", "generate", "--meta", "none", "--output-path", "phalanx_client"]);
    let text = run(generate.arg("--path").arg(root().join("static/openapi.json")).current_dir(folder.path()));
    assert!(!text.contains("will not be generated") && !text.contains("Unable to"), "{text}");
    const IMPORT_ALL: &str = "
import importlib, pkgutil, phalanx_client
names = [module.name for module in pkgutil.walk_packages(phalanx_client.__path__, 'phalanx_client.')]
modules = [importlib.import_module(name) for name in names]
print(sum(hasattr(module, 'sync_detailed') for module in modules))
";
    let text = run(python().args(["-c", IMPORT_ALL]).current_dir(folder.path()));
    assert_eq!(text.trim(), operations().to_string());
}
