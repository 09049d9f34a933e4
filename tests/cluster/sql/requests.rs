//! Each endpoint of the database on each node, its parameters, and the settings that hold for the whole cluster.

use super::{FILE, JSON, ask, cluster, get, post, scalar};
use crate::EXE;
use phalanx::lab::Result;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Read;
use std::process::Command;

/// Takes the times of the statements out of an answer.
fn take_times(answer: &mut Value) -> Vec<f64> {
    let results = answer["results"].as_array_mut().unwrap();
    results.iter_mut().filter_map(|one| one.as_object_mut()?.remove("time")?.as_f64()).collect()
}

#[test]
fn every_endpoint_on_every_node() -> Result<()> {
    let cluster = cluster(3)?;
    let create = json!(["CREATE TABLE foo (id INTEGER PRIMARY KEY, name TEXT, pic BLOB, at DATETIME)"]);
    assert_eq!(post(&cluster, 2, "/db/execute", &create), json!({"results": [{}]}));
    for id in 1..=3 {
        let statements = json!([
            ["INSERT INTO foo(name, pic, at) VALUES(?, ?, ?)", "fiona", [0, 255], "2026-01-02 03:04:05"],
            ["INSERT INTO foo(name) VALUES(:name)", {"name": "déclan"}],
            "INSERT INTO absent VALUES(1)"
        ]);
        let mut answer = post(&cluster, id, "/db/execute?timings&raft_index", &statements);
        let last = id * 2;
        let times = take_times(&mut answer);
        assert_eq!(answer["results"][0], json!({"last_insert_id": last - 1, "rows_affected": 1}));
        assert_eq!(answer["results"][1], json!({"last_insert_id": last, "rows_affected": 1}));
        assert_eq!(answer["results"][2], json!({"error": "no such table: absent"}));
        assert!(answer["raft_index"].is_u64(), "{answer}");
        let whole = answer["time"].as_f64().unwrap();
        assert!(times.len() == 3 && times.iter().sum::<f64>() <= whole, "{times:?} of {whole}");
        // All or nothing.
        let both = json!([["INSERT INTO foo(name) VALUES(?)", "never"], "INSERT INTO absent VALUES(1)", "SELECT 1"]);
        let answer = post(&cluster, id, "/db/execute?transaction", &both);
        assert_eq!(answer["results"].as_array().unwrap().last().unwrap()["error"], "no such table: absent", "{answer}");
    }
    for id in 1..=3 {
        let row = json!(["fiona", "AP8=", "2026-01-02T03:04:05Z"]);
        let plain = json!({"columns": ["name", "pic", "at"], "types": ["text", "blob", "datetime"], "values": [row]});
        for level in ["", "&level=weak", "&level=linearizable", "&level=strong"] {
            let path = format!("/db/query?q=SELECT+name,pic,at+FROM+foo+WHERE+id%3D1{level}");
            let answer = get(&cluster, id, &path);
            assert_eq!(answer.json(), json!({"results": [plain]}), "{level}: {}", answer.text());
            let mut timed = get(&cluster, id, &format!("{path}&timings")).json();
            assert_eq!(take_times(&mut timed).len(), 1, "{level}: {timed}");
        }
        let by_post =
            json!([["SELECT name FROM foo WHERE id = ?", 2], "DELETE FROM foo", "SELECT id FROM foo WHERE 0"]);
        let answer = post(&cluster, id, "/db/query?associative&level=none&freshness=10s", &by_post);
        assert_eq!(answer["results"][0], json!({"types": {"name": "text"}, "rows": [{"name": "déclan"}]}));
        assert!(answer["results"][1]["error"].is_string(), "a query changes nothing: {answer}");
        assert_eq!(answer["results"][2], json!({"types": {"id": "integer"}, "rows": []}));
        let mixed = json!([["INSERT INTO foo(name) VALUES(?)", "m"], "SELECT count(*) AS n FROM foo"]);
        let answer = post(&cluster, id, "/db/request?pretty", &mixed);
        assert_eq!(answer["results"][0]["rows_affected"], 1);
        assert_eq!(answer["results"][1]["values"][0][0], 6 + id);
    }

    // Each node keeps readers open: none of them shows a table as it was before its definition changed.
    let shape = |columns: Value, values: Value| {
        for (id, level) in (1..=3).flat_map(|id| [(id, "linearizable"), (id, "none"), (id, "none")]) {
            let answer = get(&cluster, id, &format!("/db/query?q=SELECT+*+FROM+shape&level={level}")).json();
            let found = &answer["results"][0];
            assert_eq!((&found["columns"], &found["values"]), (&columns, &values), "node {id}, {level}: {answer}");
        }
    };
    let change = |id: u64, sql: &[&str]| {
        let answer = post(&cluster, id, "/db/execute", &json!(sql));
        assert!(!answer.to_string().contains("error"), "{sql:?}: {answer}");
    };
    change(1, &["CREATE TABLE shape (a)", "INSERT INTO shape VALUES(1)"]);
    shape(json!(["a"]), json!([[1]]));
    change(2, &["ALTER TABLE shape ADD COLUMN b DEFAULT 'x'"]);
    shape(json!(["a", "b"]), json!([[1, "x"]]));
    change(3, &["ALTER TABLE shape DROP COLUMN a"]);
    shape(json!(["b"]), json!([["x"]]));
    change(1, &["DROP TABLE shape", "CREATE TABLE shape (c, d)", "INSERT INTO shape VALUES(2, 3)"]);
    shape(json!(["c", "d"]), json!([[2, 3]]));
    change(2, &["DROP TABLE shape"]);

    // The same request under one key takes effect once, on whichever nodes its copies arrive.
    let body = json!([["INSERT INTO foo(name) VALUES(hex(randomblob(8)))"]]).to_string();
    let headers = format!("{JSON}Idempotency-Key: once\r\n");
    let mut times = Vec::new();
    let copies: BTreeSet<String> = (1..=3)
        .map(|id| {
            let answer =
                ask(&cluster.http(id), "POST", "/db/execute?timings", &headers, Some(body.as_bytes())).unwrap();
            let mut answer = answer.json();
            times.extend(take_times(&mut answer));
            answer["results"].to_string()
        })
        .collect();
    assert_eq!((copies.len(), scalar(&cluster, 1, "SELECT count(*) FROM foo")), (1, json!(10)));
    assert_eq!(times.len(), 1, "it ran once: {times:?}");

    // The whole database, out of one node and into all.
    let file = get(&cluster, 3, "/db/backup");
    assert!(file.status == 200 && file.body.starts_with(b"SQLite format 3\0"), "{file:?}");
    let dump = get(&cluster, 2, "/db/backup?fmt=sql").text();
    assert!(dump.starts_with("PRAGMA foreign_keys=OFF;") && dump.trim_end().ends_with("COMMIT;"), "{dump}");
    let before = get(&cluster, 1, "/db/digest").json();
    for (id, body) in [(1, &file.body[..]), (2, dump.as_bytes())] {
        post(&cluster, id, "/db/execute", &json!(["DROP TABLE foo"]));
        let answer = ask(&cluster.http(id), "POST", "/db/load", FILE, Some(body)).unwrap();
        assert_eq!((answer.status, answer.json()), (200, json!({"results": []})), "{}", answer.text());
        for id in 1..=3 {
            let after = get(&cluster, id, "/db/digest").json();
            assert_eq!((&after["tables"], &after["schema"]), (&before["tables"], &before["schema"]), "node {id}");
        }
    }

    // A file of several pieces.
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
        INSERT INTO big SELECT i, randomblob(3000) FROM n";
    post(&cluster, 1, "/db/execute?transaction", &json!(["CREATE TABLE big (id INTEGER PRIMARY KEY, b BLOB)", fill]));
    let (file, full) = (get(&cluster, 2, "/db/backup").body, get(&cluster, 2, "/db/digest").json());
    assert!(file.len() > 8 << 20, "{} bytes", file.len());
    post(&cluster, 3, "/db/execute", &json!(["DROP TABLE foo", "DELETE FROM big WHERE id > 7"]));
    let answer = ask(&cluster.http(3), "POST", "/db/load", FILE, Some(&file)).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    for id in 1..=3 {
        assert_eq!(get(&cluster, id, "/db/digest").json()["tables"], full["tables"], "node {id}");
    }
    post(&cluster, 1, "/db/execute", &json!(["DROP TABLE big"]));

    let long = format!("[\"INSERT INTO foo(name) VALUES('{}')\"]", "x".repeat((8 << 20) - (100 << 10)));
    let longer = format!("SELECT '{}'", "x".repeat(8 << 20));
    for (method, path, headers, body, status) in [
        ("POST", "/db/execute", JSON, "", 400),
        ("POST", "/db/execute", JSON, "{}", 400),
        ("POST", "/db/execute", JSON, "[]", 400),
        ("POST", "/db/execute", JSON, "[[1]]", 400),
        ("POST", "/db/execute", JSON, "[\"\u{1}", 400),
        ("POST", "/db/query?level=eventual", JSON, "[\"SELECT 1\"]", 400),
        ("POST", "/db/query?freshness=soon", JSON, "[\"SELECT 1\"]", 400),
        ("POST", "/db/execute", "Sec-Fetch-Site: same-origin\r\n", "[\"SELECT 1\"]", 415),
        ("POST", "/db/execute", &format!("{JSON}Origin: http://evil.example\r\n"), "[\"SELECT 1\"]", 403),
        ("POST", "/db/load", "Sec-Fetch-Site: cross-site\r\nContent-Type: text/plain\r\n", "SELECT 1", 403),
        ("POST", "/db/load", FILE, "SQLite format 3\0 or so", 400),
        ("POST", "/db/load", FILE, "CREATE TABLE a (x); gibberish", 400),
        ("POST", "/db/execute", JSON, &long, 413),
        ("POST", "/db/load", FILE, &longer, 413),
    ] {
        let answer = ask(&cluster.http(1), method, path, headers, Some(body.as_bytes())).unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.json()["outcome"], "refused", "{}", answer.text());
    }
    for (path, status) in [
        ("/db/query", 400),
        ("/db/query?q=%zz", 400),
        ("/db/query?q=%ff", 400),
        ("/db/backup?fmt=csv", 400),
        ("/db/execute", 405),
        ("/db/nothing", 404),
    ] {
        assert_eq!(get(&cluster, 2, path).status, status, "{path}");
    }
    let after = get(&cluster, 1, "/db/digest").json();
    assert_eq!(after["tables"], before["tables"], "what was refused has changed nothing");
    Ok(())
}

/// All pages of a table are freed in one step that no budget sees: a large one goes by ranges first.
#[test]
fn a_large_table_is_not_dropped_at_once() -> Result<()> {
    let cluster = cluster(1)?;
    post(
        &cluster,
        1,
        "/db/execute",
        &json!(["CREATE TABLE large (id INTEGER PRIMARY KEY, body)", "CREATE TABLE small (n)"]),
    );
    for _ in 0..70 {
        let answer = post(&cluster, 1, "/db/execute", &json!(["INSERT INTO large(body) VALUES(zeroblob(4000000))"]));
        assert_eq!(answer["results"][0]["rows_affected"], 1, "{answer}");
    }
    for sql in ["DROP TABLE large", "DELETE FROM large", "DROP TABLE IF EXISTS large"] {
        let answer = post(&cluster, 1, "/db/execute", &json!(["INSERT INTO small VALUES(1)", sql]));
        for place in 0..2 {
            let said = answer["results"][place]["error"].as_str().unwrap_or_default();
            assert!(said.contains("more than 256 MiB at once"), "{sql}: {answer}");
        }
    }
    for script in ["INSERT INTO small VALUES(1); DROP TABLE large;", "/* ; */ BEGIN; delete from large; COMMIT"] {
        let answer = ask(&cluster.http(1), "POST", "/db/load", FILE, Some(script.as_bytes())).unwrap();
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.text().contains("more than 256 MiB at once"), "{answer:?}");
    }
    assert_eq!(scalar(&cluster, 1, "SELECT count(*) FROM small"), 0, "nothing of such a request is done");
    let answer = post(
        &cluster,
        1,
        "/db/execute",
        &json!(["DELETE FROM small", "DELETE FROM large WHERE id <= 40", "DROP TABLE large"]),
    );
    assert!(answer["results"][2]["error"].is_string(), "it is judged before anything is done: {answer}");
    post(&cluster, 1, "/db/execute", &json!(["DELETE FROM large WHERE id <= 40"]));
    assert_eq!(post(&cluster, 1, "/db/execute", &json!(["DROP TABLE large"])), json!({"results": [{}]}));
    Ok(())
}

/// What gorqlite asks for when it opens a connection, reads and writes; and each parameter of rqlite's API pages.
#[test]
fn requests_of_rqlite_clients_are_understood() -> Result<()> {
    let cluster = cluster(3)?;
    let status = get(&cluster, 2, "/status");
    assert_eq!(status.header("x-rqlite-version"), Some("v8.36.0"));
    let status = status.json();
    assert!(status["runtime"]["num_cpu"].as_u64() > Some(0), "rqlite-js looks for it: {status}");
    let leader = status["store"]["leader"]["node_id"].as_str().unwrap().to_string();
    assert_eq!(status["store"]["nodes"].as_array().map(Vec::len), Some(3), "{status}");
    let nodes = get(&cluster, 3, "/nodes").json();
    let leaders: Vec<&String> =
        nodes.as_object().unwrap().iter().filter(|(_, it)| it["leader"] == true).map(|it| it.0).collect();
    assert_eq!(leaders, [&leader]);
    for (id, node) in nodes.as_object().unwrap() {
        assert_eq!(node["api_addr"], format!("http://{}", cluster.http(id.parse().unwrap())), "{nodes}");
        assert_eq!((&node["reachable"], &node["voter"]), (&json!(true), &json!(true)), "{nodes}");
    }
    let pretty = get(&cluster, 1, "/nodes?ver=2&nonvoters&pretty");
    assert!(pretty.text().starts_with("{\n    \"nodes\": [\n        {\n"), "{}", pretty.text());
    assert_eq!(pretty.json()["nodes"].as_array().map(Vec::len), Some(3));
    for path in ["/readyz?noleader", "/readyz?sync&timeout=5s", "/readyz?sync&noleader"] {
        assert_eq!(get(&cluster, 3, path).status, 200, "{path}");
    }
    let write = ["CREATE TABLE IF NOT EXISTS g (id INTEGER PRIMARY KEY, name)", "INSERT INTO g(name) VALUES('a')"];
    for query in [
        "timings&level=weak&transaction",
        "timings&level=none&queue&wait&timeout=5s",
        "level=strong&freshness=0&freshness_strict&redirect&retries=3&noleader&raft_index",
        "pretty=yes&associative=1&blob_array=true&qualify_columns&db_timeout=5s&linearizable_timeout=5s",
        "noparse&norwrandom&norwtime&something=else",
    ] {
        for path in ["execute", "request"] {
            let answer = post(&cluster, 1, &format!("/db/{path}?{query}"), &json!(write));
            assert_eq!(answer["results"][1]["rows_affected"], 1, "{path}?{query}: {answer}");
        }
        let answer = post(&cluster, 2, &format!("/db/query?{query}"), &json!(["SELECT count(*) AS n FROM g"]));
        assert!(
            answer["results"][0]["values"].is_array() || answer["results"][0]["rows"].is_array(),
            "{query}: {answer}"
        );
    }
    for (query, expected) in [
        ("", json!({"columns": ["id"], "types": ["integer"], "values": [[1]]})),
        ("?associative", json!({"types": {"id": "integer"}, "rows": [{"id": 1}]})),
    ] {
        let sql = json!(["UPDATE g SET name = 'b' WHERE id = 1 RETURNING id"]);
        assert_eq!(post(&cluster, 3, &format!("/db/execute{query}"), &sql)["results"][0], expected);
    }
    assert_eq!(scalar(&cluster, 2, "PRAGMA read_uncommitted"), 0, "SQLAlchemy asks for it first");
    Ok(())
}

#[test]
fn a_backup_is_compressed_vacuumed_or_of_some_tables() -> Result<()> {
    let cluster = cluster(1)?;
    let sql = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5000) INSERT INTO a SELECT hex(zeroblob(90)) FROM n";
    let all = json!([
        "CREATE TABLE a(x)",
        sql,
        "DELETE FROM a WHERE rowid > 9",
        "CREATE TABLE b(x)",
        "CREATE INDEX i ON b(x)"
    ]);
    post(&cluster, 1, "/db/execute", &all);
    let backup = |query: &str| get(&cluster, 1, &format!("/db/backup?{query}"));
    let (whole, small) = (backup("").body, backup("vacuum").body);
    assert!(small.len() < whole.len() / 10, "{} {}", small.len(), whole.len());
    let dump = backup("fmt=sql&tables=B,%20b").text();
    assert!(dump.contains("CREATE TABLE b") && dump.contains("INDEX i") && !dump.contains("CREATE TABLE a"), "{dump}");
    for (query, status) in [("fmt=sql&tables=c", 503), ("tables=a", 400), ("fmt=sql&vacuum", 400), ("fmt=xml", 400)] {
        assert_eq!(backup(query).status, status, "{query}");
        assert_eq!(backup(&format!("{query}&compress")).status, status, "{query}");
    }
    for (query, plain) in [("compress", &whole), ("compress&fmt=sql", &backup("fmt=sql").body)] {
        let packed = backup(query);
        assert_eq!(packed.header("content-type"), Some("application/gzip"));
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed.body[..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == **plain, "{query}: {} bytes, not {}", unpacked.len(), plain.len());
    }
    let checked = post(&cluster, 1, "/db/sql", &json!(["SELECT x FROM a", "INSERT INTO a VALUES(1)", "SELECT nope"]));
    assert_eq!(
        checked["results"][1],
        json!({"original": "INSERT INTO a VALUES(1)", "rewritten": "INSERT INTO a VALUES(1)"})
    );
    assert_eq!(checked["results"][2]["error"], "no such column: nope");
    assert_eq!(backup("").body, whole, "nothing was executed");
    Ok(())
}

#[test]
fn foreign_keys_are_switched_for_the_whole_cluster() -> Result<()> {
    let cluster = cluster(3)?;
    let settings = |id: u64| get(&cluster, id, "/db/settings").json()["foreign_keys"].clone();
    let switch = |id: u64, is_on: bool| {
        let body = json!({"foreign_keys": is_on}).to_string();
        ask(&cluster.http(id), "PUT", "/db/settings", JSON, Some(body.as_bytes())).unwrap()
    };
    let execute = |id: u64, sql: &[&str]| post(&cluster, id, "/db/execute", &json!(sql))["results"].clone();
    let tables =
        ["CREATE TABLE p (id INTEGER PRIMARY KEY)", "CREATE TABLE c (p INTEGER REFERENCES p ON DELETE CASCADE)"];
    execute(1, &[tables[0], tables[1], "INSERT INTO c VALUES(1)"]);
    assert_eq!(settings(2), false);
    let refused = switch(2, true);
    assert_eq!(refused.status, 409);
    assert!(refused.json()["error"].as_str().unwrap().starts_with("row 1 of table c refers to a row of p"));
    execute(1, &["INSERT INTO p VALUES(1)"]);
    assert_eq!(switch(2, true).status, 200);
    for id in 1..=3 {
        assert_eq!(settings(id), true, "node {id}");
        let asked = post(&cluster, id, "/db/query", &json!(["PRAGMA foreign_keys", "PRAGMA foreign_keys = OFF"]));
        assert_eq!(asked["results"][0]["values"], json!([[1]]), "node {id}");
        assert!(asked["results"][1]["error"].as_str().unwrap().contains("in the whole cluster"), "{asked}");
        let answer = execute(id, &["PRAGMA foreign_keys = ON", "INSERT INTO c VALUES(2)"]);
        assert_eq!(answer[1]["error"], "FOREIGN KEY constraint failed", "node {id}: {answer}");
    }
    execute(3, &["DELETE FROM p"]);
    assert_eq!(
        post(&cluster, 1, "/db/query", &json!(["SELECT count(*) FROM c"]))["results"][0]["values"],
        json!([[0]])
    );
    let commands = ["sql", "-c", ".foreign_keys off", "-c", ".foreign_keys", "-e"];
    let shell = Command::new(EXE).args(commands).arg(cluster.http(2)).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shell.stdout), "foreign keys: off\nforeign keys: off\n", "{shell:?}");
    assert_eq!(execute(3, &["INSERT INTO c VALUES(2)"])[0]["rows_affected"], 1);
    Ok(())
}
