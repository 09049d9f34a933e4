//! The drawing: lanes, arrows and marks of a window of time, as SVG.
//!
//! Not here: the page around it (`mod.rs`).

use crate::sim::{Failure, Flight, MessageKind, NodeState, Recording, Role, TICK_US};
use std::fmt::Write;

/// Arrows, at most: more are a carpet, and slow to draw.
const ARROWS_MAX: usize = 1_200;
/// Arrows of messages that are neither votes nor snapshots, in a tick, at most.
const ROUTINE_PER_TICK: usize = 2;
/// Marks of faults, at most.
const MARKS_MAX: usize = 400;
/// Space for the names of nodes.
const LEFT: f64 = 64.0;
/// Space for the axis and for what concerns all nodes.
const TOP: f64 = 92.0;
/// From one lane to the next.
const LANE: f64 = 96.0;
/// Half of a leader's bar, and of a follower's.
const LEADER: f64 = 12.0;
const FOLLOWER: f64 = 5.0;
/// Width of the drawn time, at least.
const WIDTH_MIN: f64 = 1_120.0;
/// Width of a tick, at least.
const TICK: f64 = 8.0;
/// Height of a line of text.
const LINE: f64 = 14.0;

/// A window of a recorded run.
pub struct Lanes<'a> {
    recording: &'a Recording,
    from: u64,
    to: u64,
    /// Those that are drawn.
    arrows: Vec<&'a Flight>,
    messages: usize,
}

impl<'a> Lanes<'a> {
    pub fn new(recording: &'a Recording, (from, to): (u64, u64)) -> Lanes<'a> {
        let (from, to) = (from * TICK_US, to * TICK_US);
        let is_inside = |flight: &&Flight| flight.sent >= from && flight.sent <= to;
        let all: Vec<&Flight> = recording.messages.iter().filter(is_inside).collect();
        let (first, rest): (Vec<&Flight>, Vec<&Flight>) = all.iter().partition(|flight| is_rare(flight.kind));
        let mut arrows: Vec<&Flight> = first.into_iter().take(ARROWS_MAX).collect();
        let room = (ARROWS_MAX - arrows.len()).min(ROUTINE_PER_TICK * ((to - from) / TICK_US) as usize);
        let step = rest.len().div_ceil(room.max(1)).max(1);
        arrows.extend(rest.into_iter().step_by(step).take(room));
        Lanes { recording, from, to, arrows, messages: all.len() }
    }

    pub fn shown(&self) -> usize {
        self.arrows.len()
    }

    pub fn messages(&self) -> usize {
        self.messages
    }

    fn width(&self) -> f64 {
        ((self.to - self.from) as f64 / TICK_US as f64 * TICK).max(WIDTH_MIN)
    }

    fn bottom(&self) -> f64 {
        TOP + LANE * self.recording.nodes() as f64
    }

    fn x(&self, at: u64) -> f64 {
        let part = (at.clamp(self.from, self.to) - self.from) as f64 / (self.to - self.from) as f64;
        LEFT + part * self.width()
    }

    fn y(node: usize) -> f64 {
        TOP + LANE * (node as f64 + 0.5)
    }

    /// The whole drawing.
    pub fn draw(&self, failure: Option<&Failure>, out: &mut String) {
        let (width, height) = (LEFT + self.width() + 24.0, self.bottom() + 12.0);
        write_to(out, format_args!("<svg width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n<defs>"));
        *out += "<pattern id=\"stripes\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\" \
            patternTransform=\"rotate(45)\"><line class=\"stripe\" y2=\"8\"/></pattern>";
        for kind in KINDS.map(name) {
            write_to(
                out,
                format_args!(
                    "<marker id=\"{kind}\" viewBox=\"0 0 6 6\" refX=\"6\" refY=\"3\" orient=\"auto\" \
                markerWidth=\"7\" markerHeight=\"7\" markerUnits=\"userSpaceOnUse\">\
                <path class=\"h-{kind}\" d=\"M0 0L6 3L0 6z\"/></marker>"
                ),
            );
        }
        *out += "</defs>\n";
        self.axis(out);
        self.arrows.iter().for_each(|flight| self.arrow(flight, out));
        for node in 0..self.recording.nodes() {
            self.lane(node, out);
        }
        self.marks(out);
        if let Some(failure) = failure {
            let x = self.x(self.recording.end);
            let (bottom, rule) = (self.bottom(), escape(failure.violation.rule));
            write_to(
                out,
                format_args!("<line class=\"broken\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"34\" y2=\"{bottom}\"/>\n"),
            );
            write_to(
                out,
                format_args!("<text class=\"bad\" x=\"{x:.1}\" y=\"28\" text-anchor=\"end\">{rule}</text>\n"),
            );
        }
        *out += "</svg>\n";
    }

    fn axis(&self, out: &mut String) {
        let (from, to) = (self.from / TICK_US, self.to / TICK_US);
        let step = [5, 10, 20, 50, 100, 200].into_iter().find(|step| (to - from) / step <= 30).unwrap_or(500);
        for tick in (from.div_ceil(step)..=to / step).map(|at| at * step) {
            let (x, bottom) = (self.x(tick * TICK_US), self.bottom());
            write_to(
                out,
                format_args!(
                    "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                <text class=\"soft\" x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{tick}</text>\n",
                    TOP - 6.0
                ),
            );
        }
    }

    /// The states of one node, one bar each.
    fn lane(&self, node: usize, out: &mut String) {
        let y = Lanes::y(node);
        write_to(out, format_args!("<text class=\"node\" x=\"18\" y=\"{:.0}\">n{}</text>\n", y + 5.0, node + 1));
        let own: Vec<_> = self.recording.states.iter().filter(|(_, who, _)| *who == node).collect();
        let mut term_named = None;
        for (number, (at, _, state)) in own.iter().enumerate() {
            let until = own.get(number + 1).map_or(self.recording.end, |(at, ..)| *at);
            if until < self.from || *at > self.to {
                continue;
            }
            let (begin, end) = (self.x(*at), self.x(until));
            let width = (end - begin).max(0.6);
            let ticks = format!("ticks {} to {}", at / TICK_US, until / TICK_US);
            match state {
                NodeState::Down => write_to(
                    out,
                    format_args!(
                        "<line class=\"down\" x1=\"{begin:.1}\" x2=\"{end:.1}\" \
                    y1=\"{y}\" y2=\"{y}\"><title>n{} down, {ticks}</title></line>\n",
                        node + 1
                    ),
                ),
                NodeState::Runs { term, role, is_paused } => {
                    let (class, half) = match role {
                        Role::Leader => ("leader", LEADER),
                        Role::Candidate => ("candidate", LEADER),
                        Role::Follower => ("follower", FOLLOWER),
                    };
                    let (top, height) = (y - half, half * 2.0);
                    let shape = format!("x=\"{begin:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{height}\"");
                    write_to(
                        out,
                        format_args!(
                            "<rect class=\"t {class}\" style=\"--h:{}\" rx=\"3\" {shape}>\
                        <title>n{} {class} in term {term}, {ticks}</title></rect>\n",
                            hue(*term),
                            node + 1
                        ),
                    );
                    if *is_paused {
                        write_to(out, format_args!("<rect class=\"paused\" {shape}/>\n"));
                    }
                    self.term_name(*term, *role, (begin, y, width), &mut term_named, out);
                }
            }
        }
    }

    /// The number of a term, where it is new on its lane or its leader's, and fits.
    fn term_name(
        &self,
        term: u64,
        role: Role,
        (x, y, width): (f64, f64, f64),
        named: &mut Option<u64>,
        out: &mut String,
    ) {
        if role == Role::Leader && width > 24.0 {
            let y = y + 4.0;
            write_to(out, format_args!("<text class=\"term\" x=\"{:.1}\" y=\"{y}\">t{term}</text>\n", x + 4.0));
            *named = Some(term);
        } else if *named != Some(term) && width > 24.0 {
            let y = y + LEADER + 12.0;
            write_to(out, format_args!("<text class=\"soft\" x=\"{:.1}\" y=\"{y}\">t{term}</text>\n", x + 2.0));
            *named = Some(term);
        }
    }

    fn arrow(&self, flight: &Flight, out: &mut String) {
        let kind = name(flight.kind);
        let (from, to) = (Lanes::y(flight.from), Lanes::y(flight.to));
        let edge = LEADER.copysign(to - from);
        let (x1, y1, y2) = (self.x(flight.sent), from + edge, to - edge);
        match flight.arrives {
            Some(arrives) if arrives <= self.to => {
                let x2 = self.x(arrives);
                write_to(
                    out,
                    format_args!(
                        "<line class=\"m {kind}\" marker-end=\"url(#{kind})\" x1=\"{x1:.1}\" \
                    y1=\"{y1}\" x2=\"{x2:.1}\" y2=\"{y2}\"><title>{kind}, term {}</title></line>\n",
                        flight.term
                    ),
                );
            }
            Some(_) => {}
            // It gets a third of the way to a neighbour's lane.
            None => {
                let (x2, y2) = (x1 + 5.0, y1 + (LANE / 3.0).copysign(to - from));
                write_to(
                    out,
                    format_args!(
                        "<line class=\"m {kind} lost\" x1=\"{x1:.1}\" y1=\"{y1}\" x2=\"{x2:.1}\" \
                    y2=\"{y2:.1}\"><title>{kind} to n{}, lost</title></line>\n",
                        flight.to + 1
                    ),
                );
            }
        }
    }

    /// Faults: at the lane of their node, or as a line over all lanes. Names that would overlap go to the next line, or
    /// to the tooltip only.
    fn marks(&self, out: &mut String) {
        let mut ends = vec![[0.0_f64; 2]; self.recording.nodes() + 1];
        let inside = self.recording.marks.iter().filter(|mark| mark.at >= self.from && mark.at <= self.to);
        for mark in inside.take(MARKS_MAX) {
            let (x, what) = (self.x(mark.at), escape(&mark.what));
            let tick = mark.at / TICK_US;
            let lane = mark.node.map_or(0, |node| node + 1);
            let base = match mark.node {
                Some(node) => {
                    let y = Lanes::y(node) - LEADER - 4.0;
                    write_to(
                        out,
                        format_args!(
                            "<path class=\"mark\" d=\"M{:.1} {:.1}h10l-5 9z\">\
                        <title>{what}, tick {tick}</title></path>\n",
                            x - 5.0,
                            y - 6.0
                        ),
                    );
                    y - 8.0
                }
                None => {
                    let bottom = self.bottom();
                    write_to(
                        out,
                        format_args!(
                            "<line class=\"all\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" \
                        y2=\"{bottom}\"><title>{what}, tick {tick}</title></line>\n"
                        ),
                    );
                    TOP - 24.0
                }
            };
            let Some(level) = ends[lane].iter().position(|end| *end < x) else { continue };
            ends[lane][level] = x + what.len() as f64 * 6.2 + 8.0;
            let y = base - LINE * level as f64;
            write_to(out, format_args!("<text class=\"fault\" x=\"{x:.1}\" y=\"{y:.1}\">{what}</text>\n"));
        }
    }
}

const KINDS: [MessageKind; 7] = [
    MessageKind::Vote,
    MessageKind::VoteReply,
    MessageKind::Append,
    MessageKind::Heartbeat,
    MessageKind::Reply,
    MessageKind::Snapshot,
    MessageKind::Other,
];

/// What the style sheet calls a kind.
fn name(kind: MessageKind) -> &'static str {
    match kind {
        MessageKind::Vote => "vote",
        MessageKind::VoteReply => "vote-reply",
        MessageKind::Append => "append",
        MessageKind::Heartbeat => "heartbeat",
        MessageKind::Reply => "reply",
        MessageKind::Snapshot => "snapshot",
        MessageKind::Other => "other",
    }
}

fn is_rare(kind: MessageKind) -> bool {
    matches!(kind, MessageKind::Vote | MessageKind::VoteReply | MessageKind::Snapshot)
}

/// Neighbouring terms get colours that are far apart (the golden angle).
fn hue(term: u64) -> u64 {
    (210 + term.wrapping_mul(137)) % 360
}

/// Text as part of a page.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn write_to(out: &mut String, text: std::fmt::Arguments) {
    out.write_fmt(text).expect("a String takes all");
}
