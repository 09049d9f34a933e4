//! What a rule finds, and the report of all of it.

use std::collections::BTreeMap;

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub line: usize,
    pub why: String,
}

pub fn fault(line: usize, why: impl Into<String>) -> Fault {
    Fault { line, why: why.into() }
}

pub fn check_all(files: &BTreeMap<String, String>, rule: impl Fn(&str, &str) -> Vec<Fault>) {
    let mut report = String::new();
    for (path, text) in files {
        for fault in rule(path, text) {
            report += &format!("\n{path}:{}: {}", fault.line, fault.why);
        }
    }
    assert!(report.is_empty(), "{report}");
}

pub fn lines(faults: Vec<Fault>) -> Vec<usize> {
    faults.into_iter().map(|f| f.line).collect()
}
