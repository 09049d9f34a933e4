//! `phalanx sql` and `phalanx check digest` as people use them, on a real cluster whose nodes die meanwhile.

use crate::EXE;
use phalanx::lab::terminal::Terminal;
use phalanx::lab::{Cluster, Result};
use serde_json::json;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn cluster() -> Result<Cluster> {
    let cluster = Cluster::ready(EXE, 3, &json!({"jobs_enabled": false}))?;
    cluster.settle()?;
    Ok(cluster)
}

/// Runs the program with these arguments and this on stdin.
fn run(cluster: &Cluster, arguments: &[&str], input: &str) -> Output {
    let endpoints = cluster.addresses().join(",");
    let mut child = Command::new(EXE)
        .args(arguments)
        .args(["-e", &endpoints])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What it says, which must end with this exit code.
fn say(cluster: &Cluster, code: i32, arguments: &[&str], input: &str) -> String {
    let output = run(cluster, arguments, input);
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{errors}");
    if code == 0 { said.into_owned() } else { errors.into_owned() }
}

#[test]
fn statements_scripts_and_dumps() -> Result<()> {
    let mut cluster = cluster()?;
    let create = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, pic BLOB); -- a comment; with a semicolon\n\
        INSERT INTO users(name, pic) VALUES ('fiona;', x'00ff'), ('日本', NULL);";
    assert_eq!(say(&cluster, 0, &["sql", "-c", create], ""), "");
    let all = ["sql", "-c", "SELECT * FROM users"];
    assert_eq!(
        say(&cluster, 0, &all, ""),
        "┌────┬────────┬─────────┐\n│ id │ name   │ pic     │\n├────┼────────┼─────────┤\n\
         │  1 │ fiona; │ x'00ff' │\n│  2 │ 日本   │ NULL    │\n└────┴────────┴─────────┘\n"
    );
    assert_eq!(say(&cluster, 0, &[&all[..], &["--csv"]].concat(), ""), "id,name,pic\n1,fiona;,x'00ff'\n2,日本,\n");
    assert_eq!(
        say(&cluster, 0, &[&all[..], &["--json"]].concat(), ""),
        "[{\"id\":1,\"name\":\"fiona;\",\"pic\":\"x'00ff'\"},{\"id\":2,\"name\":\"日本\",\"pic\":null}]\n"
    );
    // From stdin, with a trigger, whose body has semicolons of its own.
    let script = "CREATE TRIGGER t AFTER INSERT ON users BEGIN\n  UPDATE users SET name = upper(name) WHERE id = new.id;\nEND;\n\
        INSERT INTO users(name) VALUES ('x'); SELECT name FROM users WHERE id = 3";
    assert!(say(&cluster, 0, &["sql"], script).contains("│ X    │"));
    assert_eq!(say(&cluster, 0, &["sql", "-c", ".tables"], ""), "users\n");
    assert!(say(&cluster, 0, &["sql", "-c", ".schema users"], "").starts_with("CREATE TABLE users (id INTEGER"));

    let dump = say(&cluster, 0, &["sql", "-c", ".dump"], "");
    let file = cluster.dir().join("dump.sql");
    std::fs::write(&file, &dump).unwrap();
    say(&cluster, 0, &["sql", "-c", "DROP TABLE users"], "");
    say(&cluster, 0, &["sql", "-f", file.to_str().unwrap()], "");
    assert_eq!(say(&cluster, 0, &["sql", "-c", ".dump"], ""), dump);
    std::fs::write(&file, dump.replace("COMMIT;", "INSERT INTO absent VALUES (1);\nCOMMIT;")).unwrap();
    say(&cluster, 0, &["sql", "-c", "DROP TABLE users"], "");
    let why = say(&cluster, 1, &["sql", "-f", file.to_str().unwrap()], "");
    assert!(why.contains("no such table: absent"), "{why}");
    assert_eq!(say(&cluster, 0, &["sql", "-c", ".tables"], ""), "", "all or nothing");

    // As editors on Windows save it.
    std::fs::write(&file, "\u{feff}CREATE TABLE w(x);\r\nINSERT INTO w VALUES (1);\r\nDROP TABLE w;\r\n").unwrap();
    assert_eq!(say(&cluster, 0, &["sql", "-f", file.to_str().unwrap()], ""), "");
    assert_eq!(say(&cluster, 0, &["sql"], "\u{feff}CREATE TABLE w(x);\nDROP TABLE w;\n"), "");
    assert_eq!(say(&cluster, 0, &["sql", "--csv", "-c", "-- a comment\nSELECT 1 AS n"], ""), "n\n1\n");
    std::fs::write(&file, "\u{feff}SELECT 1;".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let why = say(&cluster, 2, &["sql", "-f", file.to_str().unwrap()], "");
    assert!(why.contains("UTF-16"), "{why}");

    // A transaction that does not end changes nothing, from wherever it comes.
    let open = "BEGIN; CREATE TABLE half (x); INSERT INTO half VALUES (1)";
    std::fs::write(&file, open).unwrap();
    for (arguments, input) in
        [(["sql", "-c", open], ""), (["sql", "-f", file.to_str().unwrap()], ""), (["sql", "-f", "-"], open)]
    {
        assert!(
            say(&cluster, 1, &arguments, input).contains("a transaction has BEGIN but no COMMIT: nothing was sent")
        );
    }
    assert_eq!(say(&cluster, 0, &["sql", "-c", ".tables"], ""), "", "nothing was changed");

    // Lines with a dot stand anywhere but in a statement; rows come behind a transaction, not in it.
    let mixed = ".mode csv\nBEGIN; CREATE TABLE ends (x); -- a comment\nINSERT INTO ends VALUES ('\n.a'); COMMIT;\n\
        SELECT count(*) AS n FROM ends; .tables\n.quit\nDROP TABLE ends";
    assert_eq!(say(&cluster, 0, &["sql"], mixed), "n\n1\nends\n");
    let inside = "BEGIN; DROP TABLE ends; SELECT 1; COMMIT";
    assert!(
        say(&cluster, 1, &["sql", "-c", inside], "")
            .contains("statement 3: a transaction in a script cannot return rows")
    );
    assert_eq!(say(&cluster, 0, &["sql", "-c", ".tables"], ""), "ends\n", "nothing was sent");
    say(&cluster, 0, &["sql", "-c", "DROP TABLE ends"], "");
    std::fs::write(&file, format!(".read {}", file.display())).unwrap();
    assert!(say(&cluster, 1, &["sql", "-f", file.to_str().unwrap()], "").contains("nested more than 16 deep"));

    assert!(say(&cluster, 1, &["sql", "-c", "SELECT * FROM absent"], "").contains("no such table: absent"));
    say(&cluster, 2, &["sql", "-c", ".nothing"], "");
    say(&cluster, 2, &["sql", "-f", "/no/such/file"], "");
    say(&cluster, 2, &["sql", "-c", "SELECT 1", "--level", "eventual"], "");

    say(&cluster, 0, &["sql", "-c", "CREATE TABLE kept (x); INSERT INTO kept VALUES (1)"], "");
    let same = say(&cluster, 0, &["check", "digest"], "");
    assert!(same.starts_with("nodes 1, 2, 3 hold the same state at index "), "{same}");
    for part in ["directory", "key-value", "jobs", "sql", "chat", "sessions", "table kept"] {
        assert!(same.lines().any(|line| line.ends_with(&format!("  {part}"))), "{part} is not compared: {same}");
    }
    let report: serde_json::Value =
        serde_json::from_str(&say(&cluster, 0, &["check", "digest", "--json"], "")).unwrap();
    assert!(report["same"] == true && report["tables"]["kept"].is_string(), "{report}");
    // One node dies: the others answer, the check says who is missing.
    cluster.kill(1)?;
    assert!(say(&cluster, 0, &["sql", "-c", "SELECT count(*) FROM kept", "--csv"], "").ends_with("\n1\n"));
    assert!(say(&cluster, 4, &["check", "digest"], "").contains("node 1"));
    cluster.kill_all();
    say(&cluster, 4, &["sql", "-c", "SELECT 1"], "");
    Ok(())
}

/// The shell on a terminal, with its history there.
fn shell(command: &str, history: &std::path::Path) -> Result<Terminal> {
    let mut shell = Terminal::start(command, &[("PHALANX_SQL_HISTORY", history.to_str().unwrap())])?;
    shell.expect("phalanx> ")?;
    Ok(shell)
}

#[test]
fn the_shell_goes_on_when_its_node_dies() -> Result<()> {
    let mut cluster = cluster()?;
    let history = cluster.dir().join("state").join("history");
    // It is told of one node alone, and learns of the others.
    let command = format!("{EXE} sql -e {}", cluster.http(1));
    let mut shell = self::shell(&command, &history)?;
    shell.type_line("CREATE TABLE a (id INTEGER PRIMARY KEY, x);")?;
    shell.expect(&format!("-- node {}", cluster.http(1)))?;
    shell.expect("done")?;
    shell.type_line("INSERT INTO a(x)")?;
    shell.expect("...> ")?;
    shell.type_line("VALUES ('one'), ('two');")?;
    shell.expect("2 rows changed")?;
    cluster.kill(1)?;
    shell.type_line("INSERT INTO a(x) VALUES ('three');")?;
    shell.expect(&format!("-- now node {}", cluster.http(2)))?;
    shell.expect("1 row changed")?;
    shell.type_line("SELECT x FROM a WHERE id = 3;")?;
    shell.expect("│ three │")?;
    shell.type_line("SELECT * FROM absent;")?;
    shell.expect("no such table: absent")?;
    shell.type_line(".tables")?;
    shell.expect("\na\r\n")?;
    shell.type_line(".quit")?;
    shell.expect_end(0)?;
    let kept = std::fs::read_to_string(&history).unwrap();
    assert!(kept.contains("INSERT INTO a(x)") && kept.contains("'three'") && kept.contains(".quit"), "{kept}");

    let command = format!("{EXE} sql -e {}", cluster.http(3));
    let mut shell = self::shell(&command, &history)?;
    // Three up: the last query of the session before.
    shell.press(b"\x1b[A\x1b[A\x1b[A\r")?;
    shell.expect("no such table: absent")?;
    Ok(())
}

#[test]
fn ctrl_c_ends_the_wait_and_not_the_shell() -> Result<()> {
    let cluster = Cluster::ready(EXE, 1, &json!({"jobs_enabled": false}))?;
    let history = cluster.dir().join("history");
    let command = format!("{EXE} sql -e {} --timeout 300", cluster.addresses().join(","));
    let mut shell = self::shell(&command, &history)?;
    for n in 1..=2 {
        let endless =
            format!("WITH RECURSIVE c(x) AS (SELECT {n} UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c;");
        shell.type_line(&endless)?;
        // It stands there when the editor has let the terminal go.
        cluster.wait_until("the query is under way", Duration::from_secs(10), || {
            std::fs::read_to_string(&history).unwrap_or_default().contains(&endless).then_some(())
        })?;
        shell.press(b"\x03")?;
        shell.expect("interrupted; the statement may still be applied")?;
        shell.expect("phalanx> ")?;
    }
    shell.type_line("SELECT 40 + 2;")?;
    shell.expect("│     42 │")?;
    shell.expect("phalanx> ")?;
    shell.press(b"\x03")?;
    shell.expect("press Ctrl+C again or Ctrl+D to exit")?;
    shell.expect("phalanx> ")?;
    assert!(shell.is_running(), "the first one leaves nothing");
    shell.press(b"\x03")?;
    shell.expect_end(0)?;
    Ok(())
}
