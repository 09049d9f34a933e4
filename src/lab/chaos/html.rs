//! The picture of a run: one HTML file with its figures and an SVG of faults, leaders, throughput and times, which needs
//! nothing else and runs no script.

use super::report::{Injected, Report};
use std::fmt::Write;
use std::time::Duration;

/// Width of the picture and of its left margin, in pixels.
const WIDTH: f64 = 1180.0;
const LEFT: f64 = 90.0;
/// Height of a chart, and of a row of faults.
const CHART: f64 = 110.0;
const ROW: f64 = 14.0;
/// Columns of the charts: a run of any length has at most so many.
const COLUMNS_MAX: usize = 540;
/// Rows of faults at most; further ones share the last row.
const ROWS_MAX: usize = 12;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #5c6670; --line: #d8dee4; --paper: #ffffff; --bad: #c62828; --ok: #1a7f37; --write: #0b6bcb; --read: #8fbfea; --time: #b35900; --fault: #c62828; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9aa7b3; --line: #30363d; --paper: #0d1117; --bad: #ff7b72; --ok: #56d364; --write: #58a6ff; --read: #1f4f80; --time: #e3a44c; --fault: #ff7b72; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 1200px; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } .verdict-ok { color: var(--ok); } .verdict-violation, .verdict-undecided { color: var(--bad); }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .15rem 1rem .15rem 0; text-align: left; vertical-align: top; } th { color: var(--dim); font-weight: normal; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); } .name { fill: var(--ink); font-weight: 600; }
.axis { stroke: var(--line); stroke-width: 1; } .gap { fill: var(--fault); opacity: .16; } .write { fill: var(--write); } .read { fill: var(--read); }
.p50 { fill: none; stroke: var(--time); stroke-width: 1.6; } .p99 { fill: none; stroke: var(--time); stroke-width: 1; opacity: .5; }
.fault { fill: var(--fault); opacity: .75; } code { font-size: .9em; } .list { columns: 2; font-size: .85rem; } .list div { break-inside: avoid; }
";

/// Colours of nodes, by number: told apart in the light and in the dark, and by most colour-blind people.
const COLOURS: [&str; 9] =
    ["#0077bb", "#ee7733", "#009988", "#cc3311", "#aa4499", "#33bbee", "#999933", "#ee3377", "#777777"];

/// The whole page.
pub fn page(report: &Report, command: &str) -> String {
    let verdict = report.verdict();
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Phalanx chaos run: {verdict}</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>Chaos run: <span class=\"verdict-{verdict}\">{verdict}</span></h1>\n\
         <div><code>{}</code></div>\n",
        escaped(command)
    );
    figures(&mut out, report);
    Picture::new(report).draw(&mut out);
    findings(&mut out, report);
    faults(&mut out, report);
    out += "</body></html>\n";
    out
}

fn figures(out: &mut String, report: &Report) {
    *out += "<table>\n";
    for line in report.text().lines().filter(|line| !line.starts_with("  ") && !line.starts_with("verdict")) {
        let (name, what) = line.split_at_checked(22).unwrap_or((line, ""));
        let _ = writeln!(out, "<tr><th>{}</th><td>{}</td></tr>", escaped(name.trim()), escaped(what));
    }
    *out += "</table>\n";
}

fn findings(out: &mut String, report: &Report) {
    let all = report.findings();
    if all.is_empty() {
        return;
    }
    *out += "<h2>Findings</h2>\n<ul>\n";
    for finding in all {
        let _ = writeln!(out, "<li>{}</li>", escaped(&finding));
    }
    *out += "</ul>\n";
}

fn faults(out: &mut String, report: &Report) {
    *out += "<h2>Faults</h2>\n<p>Each line is a command after <code>phalanx chaos</code>.</p>\n<div class=\"list\">\n";
    for it in &report.injected {
        let result = match &it.result {
            Ok(_) => String::new(),
            Err(why) => format!(" <em>not done: {}</em>", escaped(why)),
        };
        let _ = writeln!(out, "<div>{:.1} s <code>{}</code>{result}</div>", it.at.as_secs_f64(), escaped(&it.command));
    }
    *out += "</div>\n";
}

/// The SVG: time runs from left to right, the same in each of its parts.
struct Picture<'a> {
    report: &'a Report,
    span_us: f64,
    columns: usize,
    y: f64,
    body: String,
}

impl<'a> Picture<'a> {
    fn new(report: &'a Report) -> Picture<'a> {
        let span_us = (report.lasted.as_micros() as f64).max(1.0);
        let columns = ((span_us / 100_000.0) as usize).clamp(1, COLUMNS_MAX);
        Picture { report, span_us, columns, y: 6.0, body: String::new() }
    }

    fn x(&self, at_us: f64) -> f64 {
        LEFT + (WIDTH - LEFT) * (at_us / self.span_us).clamp(0.0, 1.0)
    }

    fn draw(mut self, out: &mut String) {
        self.faults();
        self.leaders();
        let top = self.y;
        self.throughput();
        self.times();
        self.gaps(top);
        self.axis();
        let _ = write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"Faults, leaders, throughput and times of the run\">\n{}</svg>\n",
            self.y + 4.0,
            self.body
        );
    }

    fn name(&mut self, text: &str, y: f64) {
        let _ = writeln!(self.body, "<text class=\"name\" x=\"0\" y=\"{y:.1}\">{text}</text>");
    }

    /// Each fault as a bar as long as it was asked for, in the first row that is free.
    fn faults(&mut self) {
        self.name("faults", self.y + 11.0);
        let mut free: Vec<f64> = Vec::new();
        let shown = self.report.injected.iter().filter(|it| it.result.is_ok() && !it.command.starts_with("heal"));
        for it in shown.collect::<Vec<_>>() {
            let at = it.at.as_micros() as f64;
            let (from, to) = (self.x(at), self.x(at + lasts(it).as_micros() as f64));
            let width = (to - from).max(2.0);
            let row = free.iter().position(|end| *end <= from).unwrap_or_else(|| free.len().min(ROWS_MAX - 1));
            match free.get_mut(row) {
                Some(end) => *end = from + width + 1.0,
                None => free.push(from + width + 1.0),
            }
            let y = self.y + row as f64 * ROW;
            let _ = writeln!(
                self.body,
                "<rect class=\"fault\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\"><title>{:.1} s: {}</title></rect>",
                ROW - 4.0,
                it.at.as_secs_f64(),
                escaped(&it.command)
            );
        }
        self.y += free.len().max(1) as f64 * ROW + 8.0;
    }

    fn leaders(&mut self) {
        self.name("leader", self.y + 13.0);
        for lead in &self.report.leads.leads {
            let (from, to) = (self.x(lead.from.as_micros() as f64), self.x(lead.to.as_micros() as f64));
            let width = (to - from).max(1.0);
            let colour = COLOURS[(lead.node as usize).saturating_sub(1) % COLOURS.len()];
            let label = if width > 16.0 { lead.node.to_string() } else { String::new() };
            let (middle, y) = (from + width / 2.0, self.y);
            let _ = writeln!(
                self.body,
                "<rect fill=\"{colour}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"18\"><title>node {} in term {}, {:.1} to {:.1} s</title></rect>\
                 <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" style=\"fill:#fff\">{label}</text>",
                lead.node,
                lead.term,
                lead.from.as_secs_f64(),
                lead.to.as_secs_f64(),
                y + 13.0
            );
        }
        self.y += 30.0;
    }

    /// Acknowledged operations of each column: how long each took, reads and writes.
    fn columns(&self) -> Vec<(Vec<u32>, u64, u64)> {
        let mut all = vec![(Vec::new(), 0, 0); self.columns];
        for (at, took, is_write) in &self.report.judged.tally.acknowledged {
            let column = ((*at as f64 / self.span_us * self.columns as f64) as usize).min(self.columns - 1);
            let (times, reads, writes) = &mut all[column];
            times.push(*took);
            *(if *is_write { writes } else { reads }) += 1;
        }
        all.iter_mut().for_each(|(times, ..)| times.sort_unstable());
        all
    }

    fn throughput(&mut self) {
        let columns = self.columns();
        let seconds = self.span_us / 1e6 / self.columns as f64;
        let most = columns.iter().map(|(_, reads, writes)| reads + writes).max().unwrap_or(0).max(1) as f64;
        self.scale("operations/s", most / seconds, "");
        let width = (WIDTH - LEFT) / self.columns as f64;
        for (at, (_, reads, writes)) in columns.iter().enumerate() {
            let (x, mut bottom) = (LEFT + at as f64 * width, self.y + CHART);
            for (class, count) in [("write", *writes), ("read", *reads)] {
                let height = count as f64 / most * CHART;
                bottom -= height;
                if count > 0 {
                    let _ = writeln!(
                        self.body,
                        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{bottom:.1}\" width=\"{width:.2}\" height=\"{height:.1}\"/>"
                    );
                }
            }
        }
        let _ = writeln!(
            self.body,
            "<text x=\"0\" y=\"{:.1}\">dark: writes</text><text x=\"0\" y=\"{:.1}\">light: reads</text>",
            self.y + 40.0,
            self.y + 54.0
        );
        self.y += CHART + 18.0;
    }

    fn times(&mut self) {
        let columns = self.columns();
        let quantile = |times: &[u32], share: f64| {
            let at = (times.len() as f64 * share) as usize;
            times.get(at.min(times.len().saturating_sub(1))).map(|us| f64::from(*us) / 1000.0)
        };
        let most = columns.iter().filter_map(|(times, ..)| quantile(times, 0.99)).fold(1.0, f64::max);
        self.scale("time (log)", most, " ms");
        // From 0.1 ms on, a tenth of the height for each equal factor.
        let height = |ms: f64| ((ms / 0.1).max(1.0).ln() / (most / 0.1).max(1.1).ln()) * CHART;
        let width = (WIDTH - LEFT) / self.columns as f64;
        for (class, share) in [("p99", 0.99), ("p50", 0.5)] {
            let mut path = String::new();
            let mut is_drawn = false;
            for (at, (times, ..)) in columns.iter().enumerate() {
                let Some(ms) = quantile(times, share) else {
                    is_drawn = false;
                    continue;
                };
                let (x, y) = (LEFT + (at as f64 + 0.5) * width, self.y + CHART - height(ms));
                let _ = write!(path, "{}{x:.1} {y:.1}", if is_drawn { "L" } else { "M" });
                is_drawn = true;
            }
            let _ = writeln!(self.body, "<path class=\"{class}\" d=\"{path}\"/>");
        }
        let _ = writeln!(
            self.body,
            "<text x=\"0\" y=\"{:.1}\">strong: p50</text><text x=\"0\" y=\"{:.1}\">thin: p99</text>",
            self.y + 40.0,
            self.y + 54.0
        );
        self.y += CHART + 6.0;
    }

    /// Name, largest value and base line of a chart.
    fn scale(&mut self, name: &str, most: f64, unit: &str) {
        self.name(name, self.y + 11.0);
        let (top, bottom) = (self.y, self.y + CHART);
        let _ = writeln!(
            self.body,
            "<text x=\"0\" y=\"{:.1}\">top: {most:.0}{unit}</text>\
             <path class=\"axis\" d=\"M{LEFT} {top:.1}H{WIDTH}M{LEFT} {bottom:.1}H{WIDTH}\"/>",
            self.y + 25.0
        );
    }

    /// Times without an acknowledged write, over both charts, with their length.
    fn gaps(&mut self, top: f64) {
        let height = self.y - top;
        for (from, to) in &self.report.gaps {
            let (x, end) = (self.x(*from as f64), self.x(*to as f64));
            let seconds = (to - from) as f64 / 1e6;
            let _ = writeln!(
                self.body,
                "<rect class=\"gap\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>no acknowledged write for {seconds:.2} s</title></rect>",
                (end - x).max(1.0)
            );
        }
    }

    fn axis(&mut self) {
        let seconds = self.span_us / 1e6;
        let step = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
        let step = step.into_iter().find(|step| seconds / step <= 14.0).unwrap_or(7200.0);
        let mut at = 0.0;
        while at <= seconds {
            let x = self.x(at * 1e6);
            let _ = writeln!(
                self.body,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at:.0} s</text>",
                self.y + 8.0
            );
            at += step;
        }
        self.y += 12.0;
    }
}

/// How long a fault was asked for.
fn lasts(injected: &Injected) -> Duration {
    let after = injected.command.split_once("--for ").map(|(_, rest)| rest.split_whitespace().next().unwrap_or(""));
    after.and_then(crate::time::parse_duration).unwrap_or(Duration::ZERO)
}

/// Text within HTML and SVG.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
