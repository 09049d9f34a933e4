//! Tests of the database: golden scripts, crashes at every entry, statements of bad will, and what must be the same everywhere.
//!
//! One behaviour per file in `scripts/`, named after it. `UPDATE_GOLDENFILES=1 cargo test --lib services::sql` records them
//! anew; read the difference before you commit it.
//! Not here: the language of the scripts and a node's life in tests (`tests/shell.rs`), files (`tests/files.rs`).

mod crashes;
mod files;
mod hostile;
mod same;
mod shell;

#[test]
fn scripts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/services/sql/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "script"));
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {folder}");
    for path in paths {
        if let Err(why) = goldenscript::run(&mut shell::Shell::default(), &path) {
            panic!("{}: {why}", path.display());
        }
    }
}
