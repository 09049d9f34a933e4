// The jobs section: workers with their jobs, and the last results. Updated in place from each frame.
//
// A slot, a worker's row and a result keep their element as long as they are shown, so that nothing jumps, and neither the
// keyboard's focus nor a half-made selection is lost to a frame.
// Not here: the box to run a program in (run.js), frames and which node they come from (app.js).
"use strict";

/** How a job ended: good, poor or bad, and that in words. `verdict`: the frame's, or the state of a job that has ended. */
const howItEnded = (verdict, exitCode, signal, why) => {
  if (verdict === "finished") {
    if (exitCode === 0) return ["good", "finished, exit code 0"];
    if (typeof exitCode === "number") return ["poor", `ended with exit code ${exitCode}`];
    return ["bad", signal ? `ended by signal ${signal}` : "ended by a signal"];
  }
  if (verdict === "not_compiled") return ["bad", `did not compile${typeof exitCode === "number" ? `, exit code ${exitCode}` : ""}`];
  if (verdict === "cancelled") return ["poor", "cancelled"];
  if (verdict === "failed") return ["bad", why ? `could not run: ${why}` : "could not run"];
  const limits = {
    timed_out: "exceeded its time limit",
    memory_exceeded: "exceeded its memory limit",
    output_exceeded: "exceeded its output limit",
    files_exceeded: "exceeded its file size limit",
    processes_exceeded: "exceeded its process limit",
  };
  return ["bad", limits[verdict] || verdict.replaceAll("_", " ")];
};

/** Of a job without output. */
const SAID_NOTHING = "no output";

const jobsSection = ({ $, set, make, plural, span, when, jobLink }) => {
  const BOXES_MAX = 16; // More slots than that are shown as a number.
  const workers = new Map(); // node id -> its row
  const results = new Map(); // job id -> its line

  /** Elements for the items, in their order: those that stand stay, those of other items go. */
  function keep(box, known, items, build) {
    const ids = new Set(items.map((item) => item.id));
    for (const [id, part] of known) {
      if (!ids.has(id)) {
        part.root.remove();
        known.delete(id);
      }
    }
    items.forEach((item, at) => {
      if (!known.has(item.id)) known.set(item.id, build(item));
      const { root } = known.get(item.id);
      if (box.children[at] !== root) box.insertBefore(root, box.children[at] || null);
    });
  }

  function addWorker({ id }) {
    const state = make("span", "worker-state");
    const boxes = make("ol", "slots");
    boxes.setAttribute("aria-label", `slots of node ${id}`);
    const more = make("span", "slots-more");
    const about = make("p", "worker-about");
    const root = make("li", "worker", make("b", "", `node ${id}`), make("div", "worker-slots", boxes, more), state, about);
    root.id = `worker-${id}`;
    return { root, state, boxes, more, about, jobs: [] };
  }

  /** A job stays in the box in which it began: the others do not move up when one ends. */
  function placeJobs(before, row) {
    const count = Math.min(BOXES_MAX, Math.max(row.slots, row.running.length));
    const places = Array.from({ length: count }, (_, at) => (row.running.includes(before[at]) ? before[at] : null));
    const others = row.running.filter((job) => !places.includes(job));
    return places.map((job) => job ?? others.shift() ?? null);
  }

  function drawWorker(row) {
    const part = workers.get(row.id);
    const places = placeJobs(part.jobs, row);
    while (part.boxes.children.length > places.length) part.boxes.lastChild.remove();
    places.forEach((job, at) => {
      const box = part.boxes.children[at];
      if (box && part.jobs[at] === job) return;
      const next = job === null ? make("li", "slot", make("span", "unseen", "free")) : make("li", "slot is-taken", jobLink(job, String(job)));
      if (box) box.replaceWith(next);
      else part.boxes.append(next);
    });
    part.jobs = places;
    const hidden = Math.max(row.slots, row.running.length) - places.length;
    part.more.hidden = hidden <= 0;
    set(part.more, `and ${plural(hidden, "slot")} more`);
    part.root.classList.toggle("is-gone", !row.is_here);
    const free = Math.max(0, row.slots - row.running.length);
    set(part.state, !row.is_here ? "offline" : row.runtimes.length ? `${free} of ${row.slots} free` : "no runtimes");
    const languages = row.runtimes.length ? row.runtimes.join(", ") : "no languages";
    const away = "its jobs are restarted on other nodes";
    const trouble = row.trouble ? `problem: ${row.trouble}` : "";
    part.about.classList.toggle("is-trouble", Boolean(trouble) && row.is_here);
    set(part.about, !row.is_here ? away : trouble || languages);
    part.about.title = row.is_here && trouble ? languages : "";
  }

  function addResult(row) {
    const [tone, words] = howItEnded(row.verdict, row.exit_code, row.signal);
    const verdict = make("b", "ended", words);
    verdict.dataset.tone = tone;
    const where = make("span", "where", row.worker === null ? "no node" : `node ${row.worker}`);
    if (row.attempt > 1) {
      const again = make("span", "again", `attempt ${row.attempt}`);
      again.title = "the node that ran this job was lost: the job was restarted";
      where.append(again);
    }
    const says = make("code", "says", row.says || SAID_NOTHING);
    says.classList.toggle("is-empty", !row.says);
    const language = make("span", "language", row.language);
    const facts = make("p", "facts", where, make("span", "took", span(row.took_ms)), when(row.at_ms));
    const root = make("li", "", jobLink(row.id, `#${row.id}`), language, verdict, facts, says);
    root.id = `result-${row.id}`;
    return { root };
  }

  return (jobs) => {
    set($("jobs-running"), jobs.running.toLocaleString("en"));
    set($("jobs-queued"), jobs.queued.toLocaleString("en"));
    const able = jobs.workers.filter((row) => row.is_here && row.runtimes.length);
    const free = able.reduce((sum, row) => sum + Math.max(0, row.slots - row.running.length), 0);
    set($("jobs-free"), free.toLocaleString("en"));
    keep($("workers"), workers, jobs.workers, addWorker);
    jobs.workers.forEach(drawWorker);
    $("workers-empty").hidden = jobs.workers.length > 0;
    keep($("results"), results, jobs.last, addResult);
    $("results-empty").hidden = jobs.last.length > 0;
  };
};
