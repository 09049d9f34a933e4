//! `/metrics` of a real node: Prometheus' own checker reads it, and everything that is written about it agrees with it:
//! the table in docs/operations.md, docs/alerts.yml and docs/grafana.json.

use crate::EXE;
use crate::openapi::ask;
use crate::openapi::tools::{npm, run};
use phalanx::lab::Cluster;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A document of the project.
fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// Runs promtool with some input; `None`: it is not installed.
fn promtool(args: &[&str], input: &str) -> Option<String> {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: no promtool (Debian package prometheus); ./test.sh installs it where it can");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {args:?}: {text}");
    Some(text)
}

/// Names of metrics in a text: words that begin as ours do. Those of a histogram's series are the histogram's.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("phalanx_") || word.starts_with("process_"));
    let family =
        |word: &str| ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).map(str::to_string);
    ours.map(|word| family(word).unwrap_or_else(|| word.to_string())).collect()
}

/// Names of the metrics that a node exports, as their types are declared.
fn exported(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_string()).collect()
}

/// First columns of the table of metrics in docs/operations.md.
fn documented() -> BTreeSet<String> {
    let text = document("operations.md");
    let section = text.split("\n## Metrics\n").nth(1).expect("a section Metrics").split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|line| metric_names(line.split('|').nth(1).unwrap())).collect()
}

/// The expressions of the dashboard, with Grafana's variables replaced.
fn dashboard_expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(expr) = map.get("expr") {
                let expr = expr.as_str().unwrap().replace("$__rate_interval", "5m").replace("$job", "phalanx");
                assert!(!expr.contains('$'), "an unknown variable: {expr}");
                found.push(expr);
            }
            map.values().for_each(|it| dashboard_expressions(it, found));
        }
        Value::Array(items) => items.iter().for_each(|it| dashboard_expressions(it, found)),
        _ => {}
    }
}

/// The metrics of the leader of a cluster that has served requests of each kind.
fn metrics_of_a_leader() -> String {
    let settings = json!({"jobs_enabled": false, "snapshot_every_entries": 50});
    let cluster = Cluster::ready(EXE, 3, &settings).unwrap();
    let leader = cluster.settle().unwrap();
    for number in 0..60 {
        let target = format!("/v1/kv/secret-{number}");
        assert_eq!(ask(&cluster.http(leader), "PUT", &target, "", b"value", usize::MAX).status, 200);
    }
    assert_eq!(cluster.get(leader, "/v1/kv/secret-1").unwrap().status, 200);
    assert_eq!(cluster.get(leader, "/v1/kv/secret-nowhere").unwrap().status, 404);
    assert_eq!(cluster.get(leader, "/secret-path").unwrap().status, 404);
    let counts =
        ["phalanx_peer_round_trip_seconds_count{peer=", "phalanx_snapshot_duration_seconds_count{action=\"save\"}"];
    let is_counted = |text: &str, name: &str| text.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0"));
    let all = cluster.wait_until("round trips and a snapshot are measured", Duration::from_secs(30), || {
        let text = cluster.get(leader, "/metrics").ok()?.text().to_string();
        counts.iter().all(|name| is_counted(&text, name)).then_some(text)
    });
    all.unwrap()
}

#[test]
fn metrics_are_as_prometheus_wants_them_and_as_they_are_documented() {
    let text = metrics_of_a_leader();
    promtool(&["check", "metrics"], &text);
    let exported = exported(&text);
    assert_eq!(documented(), exported, "docs/operations.md, section Metrics (left), and /metrics (right)");

    let rows = |start: &str| text.lines().filter(|line| line.starts_with(start)).collect::<Vec<_>>();
    let value = |start: &str| {
        let found = rows(start);
        assert_eq!(found.len(), 1, "{start}: {found:?}");
        found[0].rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let requests = "phalanx_http_request_duration_seconds_count{method=";
    assert_eq!(value(&format!("{requests}\"PUT\",route=\"/v1/kv/{{+key}}\",outcome=\"done\"}}")), 60.0);
    assert_eq!(value(&format!("{requests}\"GET\",route=\"/v1/kv/{{+key}}\",outcome=\"client_error\"}}")), 1.0);
    assert_eq!(value(&format!("{requests}\"other\",route=\"other\",outcome=\"client_error\"}}")), 1.0);
    assert!(!text.contains("secret-"), "a path of a request in {text}");
    assert!(value("phalanx_commit_duration_seconds_count") >= 60.0);
    assert!(value("phalanx_apply_duration_seconds_count") >= 60.0);
    assert!(value("phalanx_data_bytes{part=\"log\"}") > 0.0);
    assert!(value("phalanx_disk_free_bytes") > 0.0);
    assert_eq!(value("phalanx_kv_keys"), 60.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(rows("phalanx_build_info{version=\"").len() == 1);
    assert_eq!(rows("phalanx_peer_round_trip_seconds_count").len(), 2);

    let alerts = document("alerts.yml");
    let alerts_expressions: String = alerts
        .lines()
        .filter(|line| !line.trim_start().starts_with(['#', '-']) && !line.contains("description:"))
        .collect();
    let named = metric_names(&alerts_expressions);
    assert!(named.len() > 15, "{named:?}");
    assert!(named.is_subset(&exported), "in alerts.yml only: {:?}", named.difference(&exported));
    let mut expressions = Vec::new();
    dashboard_expressions(&serde_json::from_str(&document("grafana.json")).unwrap(), &mut expressions);
    let named = metric_names(&expressions.join(" "));
    assert!(named.len() > 30, "{named:?}");
    assert!(named.is_subset(&exported), "in grafana.json only: {:?}", named.difference(&exported));
}

/// Grafana's schema of dashboards is a package of types: the dashboard has to be a value of its type.
#[test]
fn the_dashboard_fits_grafanas_schema() {
    let Some(compiler) = npm("tsc") else { return };
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/npm-tools/node_modules");
    let types = packages.join("@grafana/schema/dist/types/raw/dashboard/x/types.gen");
    if !types.with_extension("gen.d.ts").exists() {
        return eprintln!("skipped: no @grafana/schema in target/npm-tools; ./test.sh installs it where it can");
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("dashboard.ts");
    let check = |dashboard: &str| {
        let import = format!("import type {{Dashboard}} from {types:?};\n");
        std::fs::write(&program, format!("{import}export const dashboard: Dashboard = {dashboard};\n")).unwrap();
        let mut command = Command::new(&compiler);
        let options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"];
        command.args(options).args(["--target", "es2022"]).arg(&program);
        command
    };
    run(&mut check(&document("grafana.json")));
    let wrong = document("grafana.json").replace("\"schemaVersion\": 39", "\"schemaVersion\": \"39\"");
    assert!(!check(&wrong).output().unwrap().status.success(), "the compiler checks nothing");
}

#[test]
fn rules_and_dashboard_are_as_prometheus_and_grafana_read_them() {
    let dashboard: Value = serde_json::from_str(&document("grafana.json")).unwrap();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels with one id: {panel}");
        let place = ["x", "y", "w", "h"].map(|it| panel["gridPos"][it].as_u64().unwrap());
        assert!(place[0] + place[2] <= 24, "wider than the grid: {panel}");
        let has_targets = panel["targets"].as_array().is_some_and(|targets| !targets.is_empty());
        assert!(has_targets != (panel["type"] == "row"), "{panel}");
    }
    let mut expressions = Vec::new();
    dashboard_expressions(&dashboard, &mut expressions);
    let rule = |(number, expr): (usize, &String)| json!({"record": format!("panel:expression:{number}"), "expr": expr});
    let rules: Vec<Value> = expressions.iter().enumerate().map(rule).collect();
    // JSON is YAML.
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("dashboard.yml", rules), ("alerts.yml", document("alerts.yml"))] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let Some(said) = promtool(&["check", "rules", path.to_str().unwrap()], "") else { return };
        assert!(said.contains("SUCCESS"), "{said}");
    }
}
