// The form to run a program: submits it as a job, shows its output live, and how it ended.
//
// Everything is asked of the node that this page came from; while that one is gone, of the node that is followed in its
// place. A program that is handed in while a node dies is handed in again under the same key: it is one job.
// What a program says is only ever text, and what is typed is kept (per language, until the tab is closed).
// Not here: workers and results (jobs.js), which node the page follows (app.js).
"use strict";

const runBox = ({ $, set, make, span, lines, pause, address, home, isHomeHere, followed, withAccess }) => {
  const ANSWER_MS = 15_000; // Longest wait for an answer; a node gives up its own wait long before.
  const GIVE_UP_MS = 30_000; // Nodes are asked for so long, one after another.
  const SILENCE_MS = 8000; // A stream of output says something every 2 s, if only an empty line.
  const RETRY_MS = 400; // Before a stream that broke off is asked for again.
  const SHOW_EVERY_MS = 40; // What was said meanwhile is shown at once.
  const SHOWN_MAX = 200_000; // Characters of output on the page; the node has all of it.
  const KEPT_AS = "phalanx-programs";

  const form = $("run");
  const language = $("run-language");
  const source = $("run-source");
  const output = $("run-output");
  const start = $("run-start");
  const cancel = $("run-cancel");
  const mine = new Set(); // jobs that this page handed in
  let job = null; // the one that is shown, made by look()
  let isHandingIn = false;
  let kept = { chosen: "", texts: {} };
  try {
    kept = { ...kept, ...JSON.parse(sessionStorage.getItem(KEPT_AS)) };
  } catch {
    // Nothing was kept, or nothing may be.
  }

  // ---- the program ----

  function keep() {
    kept.chosen = language.value;
    if (source.value === (EXAMPLES[language.value] || "")) delete kept.texts[language.value];
    else kept.texts[language.value] = source.value;
    try {
      sessionStorage.setItem(KEPT_AS, JSON.stringify(kept));
    } catch {
      // Full or forbidden: it is still in the box.
    }
  }

  function showProgram() {
    source.value = kept.texts[language.value] || EXAMPLES[language.value] || "";
  }

  /** The languages that workers have, and the chosen one even while no worker has it: typed text must not disappear with a node. */
  function drawLanguages(workers) {
    const there = new Set(workers.filter((row) => row.is_here).flatMap((row) => row.runtimes));
    const chosen = language.value || kept.chosen;
    const all = [...new Set(chosen ? [...there, chosen] : there)].sort();
    const key = JSON.stringify(all.map((name) => [name, there.has(name)]));
    if (language.dataset.key === key) return;
    language.dataset.key = key;
    const isFirst = language.value === "";
    language.replaceChildren(
      ...all.map((name) => {
        const option = make("option", "", `${NAMES[name] || name}${there.has(name) ? "" : " (no worker has it now)"}`);
        option.value = name;
        return option;
      }),
    );
    language.value = chosen || (there.has("python") ? "python" : all[0] || "");
    if (isFirst && language.value) showProgram();
    form.hidden = all.length === 0;
    $("run-empty").hidden = all.length > 0;
  }

  // ---- saying how far it is ----

  /** `tone`: "", "good", "poor" or "bad"; `facts`: what else there is to know, in small letters. */
  function say(words, tone, facts) {
    $("run-report").hidden = false;
    set($("run-state"), words);
    $("run-state").dataset.tone = tone;
    set($("run-facts"), facts || "");
  }

  function tick() {
    const isRunning = job && !job.end && job.startedAt !== null;
    $("run-clock").hidden = !isRunning;
    if (isRunning) set($("run-clock"), span(Math.floor((performance.now() - job.startedAt) / 100) * 100));
  }
  setInterval(tick, 100);

  function drawButtons() {
    const isBusy = isHandingIn || (job !== null && !job.end && mine.has(job.id));
    start.setAttribute("aria-disabled", String(isBusy || asked() === null));
    const canCancel = job !== null && !job.end && mine.has(job.id) && asked() !== null;
    if (!canCancel && document.activeElement === cancel) start.focus(); // what is hidden loses the keyboard
    cancel.hidden = !canCancel;
    set(cancel, job && job.isTakenBack ? "Cancelling" : "Cancel");
  }

  /** The node that is asked: the one that this page came from, or the one that is followed in its place, if any. */
  const asked = () => (isHomeHere() ? home() : followed());

  /** A path at a node: the page's own has the page's address, by whatever name it was opened. */
  const at = (node, path) => (node === home() ? path : `${address(node)}${path}`);

  const linkTo = (id) => (isHomeHere() || followed() === null ? `#job-${id}` : at(followed(), `/#job-${id}`));

  function jobLink(id, text) {
    const link = make("a", "", text);
    link.dataset.job = id;
    link.href = linkTo(id);
    link.setAttribute("aria-label", `job ${id}`);
    link.title = `show the output of job ${id}`;
    return link;
  }

  function drawGone() {
    const next = asked();
    const key = isHomeHere() ? "" : String(next);
    const box = $("run-gone");
    if (box.dataset.key === key) return;
    box.dataset.key = key;
    box.hidden = key === "";
    drawButtons();
    for (const link of document.querySelectorAll("a[data-job]")) link.href = linkTo(link.dataset.job);
    const way = next === null ? "no other node answers yet" : `programs are handed in to node ${next}`;
    set(box, key && `Node ${home()}, which this page came from, is offline: ${way}. What you wrote stays here.`);
  }

  // ---- asking ----

  /** What a node said, or why not in plain words: `{said}` or `{why, status}`. */
  async function ask(method, path, body) {
    // Under one key it is done once, no matter who sends it again: this page to another node, or a browser by itself.
    const headers = withAccess({ "Idempotency-Key": [...crypto.getRandomValues(new Uint32Array(4))].join("-") });
    if (body) headers["Content-Type"] = "application/json";
    const until = performance.now() + GIVE_UP_MS;
    for (;;) {
      const node = asked();
      if (node !== null) {
        try {
          const signal = AbortSignal.timeout(ANSWER_MS);
          const answer = await fetch(at(node, path), { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
          return answer.ok ? { said: await answer.json() } : await fault(answer);
        } catch {
          // The page soon knows whether that node is gone, and follows another one.
        }
      }
      if (performance.now() > until) return { why: "no node answered", isUnknown: true, status: 0 };
      await pause(RETRY_MS);
    }
  }

  async function fault(answer) {
    let said = {};
    try {
      said = await answer.json();
    } catch {
      // Not one of ours: the number has to do.
    }
    const why = typeof said.error === "string" ? said.error : `the answer was ${answer.status}`;
    return { why, isUnknown: said.outcome === "unknown", status: answer.status };
  }

  async function run() {
    if (start.getAttribute("aria-disabled") === "true") return;
    if (source.value.trim() === "") {
      leave();
      clear();
      drawButtons();
      say("there is no program to run", "bad", "Write one, or choose another language for its example.");
      source.focus();
      return;
    }
    leave();
    clear();
    isHandingIn = true;
    drawButtons();
    say("handing it in", "");
    const { said, why, isUnknown } = await ask("POST", "/v1/jobs", { language: language.value, source: source.value });
    isHandingIn = false;
    if (said) {
      mine.add(said.id);
      if (job === null) look(said.id, `job ${said.id} is queued`);
    } else if (isUnknown) {
      say("outcome unknown: the job may or may not be submitted", "bad", `${why}. Check the last results before you run it again.`);
    } else {
      say("not submitted", "bad", `${why}.`);
    }
    drawButtons();
  }

  async function takeBack() {
    const cancelled = job;
    if (!cancelled || cancelled.end || cancelled.isTakenBack) return;
    cancelled.isTakenBack = true;
    drawButtons();
    const { why, status } = await ask("DELETE", `/v1/jobs/${cancelled.id}`);
    // 409: it has ended by itself, as its output is about to say.
    if (why && status !== 409 && job === cancelled && !cancelled.end) {
      cancelled.isTakenBack = false;
      set($("run-facts"), `not cancelled: ${why}`);
    }
    drawButtons();
  }

  // ---- following a job ----

  function leave() {
    if (job && job.controller) job.controller.abort();
    job = null;
  }

  /** Shows a job: what it has said, what it says from now on, and how it ends. */
  function look(id, words) {
    leave();
    job = { id, controller: null, attempt: 0, worker: null, startedAt: null, end: null, isTakenBack: false };
    clear();
    say(words || `loading job ${id}`, "");
    drawButtons();
    follow(job);
  }

  async function follow(wanted) {
    while (job === wanted && !wanted.end) {
      if (asked() !== null) await listen(wanted);
      if (job === wanted && !wanted.end) await pause(RETRY_MS);
    }
  }

  /** One stream of output: to its end, or until it breaks off. */
  async function listen(wanted) {
    const controller = new AbortController();
    wanted.controller = controller;
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => controller.abort(), SILENCE_MS);
    };
    heard();
    try {
      const path = `/v1/jobs/${wanted.id}/output?follow&format=ndjson`;
      const answer = await fetch(at(asked(), path), { headers: withAccess(), signal: controller.signal, cache: "no-store" });
      if (!answer.ok) {
        const { why, status } = await fault(answer);
        if (job !== wanted) return;
        if (status < 500) end(wanted, why, "bad", "");
        else set($("run-facts"), `${why}; trying again`);
        return;
      }
      const reader = answer.body.getReader();
      const read = async () => {
        const piece = await reader.read();
        heard();
        return piece;
      };
      clear(); // each stream begins anew
      wanted.attempt = 0;
      for await (const said of lines({ read })) {
        if (job !== wanted) return;
        take(wanted, said);
      }
    } catch {
      // Broken off: asked for again while the node is there.
    } finally {
      clearTimeout(timer);
      controller.abort();
    }
  }

  function take(wanted, said) {
    if (typeof said.state === "string") return endAs(wanted, said.state, said);
    if (said.worker !== undefined) {
      if (said.attempt > 1) {
        const lost = wanted.attempt > 0 ? `node ${wanted.worker} was lost: ` : "an earlier node was lost: ";
        const before = said.why === "not_started" ? "its sandbox did not start: " : lost;
        for (const old of output.querySelectorAll("span")) old.classList.add("is-lost");
        note(`${before}attempt ${said.attempt} starts on node ${said.worker}`);
      }
      if (wanted.attempt !== said.attempt) wanted.worker = null;
      wanted.attempt = said.attempt;
      runsOn(wanted, said.worker);
    } else if (typeof said.waiting === "string") {
      say(`job ${wanted.id} is queued: ${said.waiting}`, "");
    } else if (said.stream) {
      const bytes = said.base64 === undefined ? encoder.encode(said.text) : Uint8Array.from(atob(said.base64), (c) => c.charCodeAt(0));
      add(said.stream, decoders[said.stream].decode(bytes, { stream: true }));
    }
  }

  function runsOn(wanted, worker) {
    if (wanted.worker !== worker) wanted.startedAt = performance.now();
    wanted.worker = worker;
    const again = wanted.attempt > 1 ? `, attempt ${wanted.attempt}` : "";
    say(`job ${wanted.id} runs on node ${worker}${again}`, "");
    tick();
  }

  function endAs(wanted, verdict, { worker, exit_code: exitCode, signal, error, attempt, compile_ms: compileMs, run_ms: runMs, took_ms: tookMs }) {
    const [tone, words] = howItEnded(verdict, exitCode, signal, error);
    const facts = [`job ${wanted.id}`, worker === null ? "not run" : `node ${worker}`];
    if (attempt > 1) facts.push(`attempt ${attempt}`);
    if (tookMs !== undefined) facts.push(span(tookMs));
    else if (compileMs > 0) facts.push(`${span(compileMs + runMs)} (${span(compileMs)} to compile)`);
    else facts.push(span(runMs));
    end(wanted, words, tone, facts.join(" · "));
    if (output.firstChild === null) note(SAID_NOTHING);
  }

  function end(wanted, words, tone, facts) {
    wanted.end = words;
    flush();
    say(words, tone, facts);
    tick();
    drawButtons();
  }

  // ---- output ----

  const encoder = new TextEncoder();
  let decoders = {};
  let waiting = []; // {name, text}, not shown yet
  let waitingTimer = 0;
  let shown = 0;

  function clear() {
    // A character may be cut in two between two pieces of one stream.
    decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
    waiting = [];
    shown = 0;
    output.replaceChildren();
    $("run-legend").hidden = true;
  }

  function add(name, text) {
    waiting.push({ name, text });
    waitingTimer ||= setTimeout(flush, SHOW_EVERY_MS);
  }

  function note(text) {
    flush();
    output.append(make("em", "", text));
    output.scrollTop = output.scrollHeight;
  }

  function flush() {
    clearTimeout(waitingTimer);
    waitingTimer = 0;
    const isAtEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 24;
    for (const { name, text } of waiting) {
      const rest = text.slice(0, Math.max(0, SHOWN_MAX - shown));
      const last = output.lastChild;
      if (rest && last && last.className === name) last.firstChild.appendData(rest);
      else if (rest) output.append(make("span", name, rest));
      if (rest && name === "stderr") $("run-legend").hidden = false;
      if (shown <= SHOWN_MAX && shown + text.length > SHOWN_MAX) {
        const all = make("a", "", "all output");
        all.href = at(asked() ?? home(), `/v1/jobs/${job.id}/output`);
        output.append(make("em", "", "output truncated: ", all));
      }
      shown += text.length;
    }
    waiting = [];
    if (isAtEnd) output.scrollTop = output.scrollHeight;
  }

  // ---- what people do ----

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  source.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    run();
  });
  source.addEventListener("input", keep);
  language.addEventListener("change", () => {
    showProgram();
    keep();
  });
  cancel.addEventListener("click", takeBack);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-job]");
    if (!link || asked() === null || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    look(Number(link.dataset.job));
    $("run-title").scrollIntoView({ block: "nearest" });
  });
  const inAddress = /^#job-([0-9]{1,15})$/.exec(location.hash);
  if (inAddress) {
    look(Number(inAddress[1]));
    $("run-title").scrollIntoView();
  }

  /** After each frame. */
  function draw(jobs) {
    drawLanguages(jobs.workers);
    drawGone();
  }

  return { draw, drawGone, jobLink };
};

/** As people write them; others are shown by the name that the settings give them. */
const NAMES = { c: "C", cpp: "C++", java: "Java", javascript: "JavaScript", python: "Python", rust: "Rust", shell: "Shell" };

/** Each takes two seconds, so that one sees it live. */
const EXAMPLES = {
  c: `#include <stdio.h>
#include <unistd.h>

int main(void) {
    setbuf(stdout, NULL); /* say each line at once */
    for (int step = 1; step <= 5; step++) {
        printf("step %d of 5\\n", step);
        usleep(400000);
    }
    return 0;
}
`,
  cpp: `#include <chrono>
#include <iostream>
#include <thread>

int main() {
    for (int step = 1; step <= 5; step++) {
        std::cout << "step " << step << " of 5" << std::endl;
        std::this_thread::sleep_for(std::chrono::milliseconds(400));
    }
}
`,
  java: `public class Main {
    public static void main(String[] args) throws Exception {
        for (int step = 1; step <= 5; step++) {
            System.out.println("step " + step + " of 5");
            Thread.sleep(400);
        }
    }
}
`,
  javascript: `let step = 0;
const timer = setInterval(() => {
  console.log(\`step \${++step} of 5\`);
  if (step === 5) clearInterval(timer);
}, 400);
`,
  python: `import sys
import time

for step in range(1, 6):
    print("step", step, "of 5", flush=True)
    time.sleep(0.4)

print("and this is standard error", file=sys.stderr)
`,
  rust: `use std::{thread, time::Duration};

fn main() {
    for step in 1..=5 {
        println!("step {step} of 5");
        thread::sleep(Duration::from_millis(400));
    }
}
`,
  shell: `for step in 1 2 3 4 5; do
    echo "step $step of 5"
    sleep 0.4
done
echo "and this is standard error" >&2
`,
};
