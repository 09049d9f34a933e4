// The panel of a lab: buttons that kill, freeze, cut off and slow down nodes, each with the command line that does the same.
//
// It is there only where the node that the page came from runs in a lab. Like the box for programs it asks the node that this page
// came from, and while that one is gone (it may have been killed here), the one that is followed in its place.
// Nothing that a node says is ever parsed as HTML.
// Not here: what a fault does (src/faults/), which node the page follows (app.js).
"use strict";

const labPanel = ({ $, set, make, pause, address, home, isHomeHere, followed, withAccess }) => {
  const LOOK_MS = 1500; // The state is asked for so often while the page is visible.
  const ANSWER_MS = 16_000; // A supervisor confirms a fault within ten seconds, or says that it has not.
  const BUTTONS = [
    ["kill", "Kill", "SIGKILL: its connections close, the others notice at once"],
    ["freeze", "Freeze", "SIGSTOP: its connections stay open, the others wait for the election timeout"],
    ["stop", "Stop", "as Ctrl+C: it transfers the leadership first"],
    ["partition", "Isolate", "cuts its links to all other nodes; clients still reach it"],
    ["slow", "Slow", "100 ms more in each direction between it and the others"],
    ["start", "Restart", "starts it; one that runs is killed first"],
    ["heal", "Heal", "ends its faults; it continues or starts"],
  ];
  const SURPRISES = ["kill", "freeze", "stop", "partition", "slow"];

  const section = $("lab");
  const rows = new Map(); // node id -> its row
  let token = null;
  let nodes = [];
  let isBusy = false;
  let wake = () => {};

  const asked = () => (isHomeHere() ? home() : followed());
  const at = (node) => (node === home() ? "/v1/lab" : `${address(node)}/v1/lab`);

  /** What a node answers: `{said}`, `{status, why}`, or `{}` if none does. */
  async function ask(body) {
    const node = asked();
    if (node === null) return {};
    const headers = withAccess(body ? { "Content-Type": "application/json" } : {});
    const method = body ? "POST" : "GET";
    try {
      const signal = AbortSignal.timeout(ANSWER_MS);
      const answer = await fetch(at(node), { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
      const said = await answer.json();
      return answer.ok ? { said } : { status: answer.status, why: String(said.error) };
    } catch {
      return {}; // Gone, or about to be.
    }
  }

  // ---- the state ----

  async function look() {
    const { said, status } = await ask();
    if (said) {
      token = said.token;
      nodes = said.nodes;
    } else if (status === 404) {
      nodes = [];
    }
    section.hidden = nodes.length === 0;
    draw();
  }

  (async () => {
    for (;;) {
      if (!document.hidden) await look();
      await Promise.race([pause(LOOK_MS), new Promise((resolve) => (wake = resolve))]);
    }
  })();
  document.addEventListener("visibilitychange", () => wake());

  /** The faults of a node in words, the links to other nodes together. */
  function inWords(node) {
    const words = [];
    const left = (ms) => (ms === null ? "" : `, ${Math.ceil(ms / 1000)} s left`);
    if (node.process !== "running") words.push(`${node.process}${left(node.left_ms)}`);
    const links = node.faults.filter((fault) => fault.kind === "link");
    const others = (list) => [...new Set(list.map(({ from, to }) => (from === node.node ? to : from)))].sort((a, b) => a - b).join(", ");
    const cut = links.filter(({ quality }) => quality.is_cut);
    if (cut.length) words.push(`cut off from ${others(cut)}${left(cut[0].left_ms)}`);
    const slow = links.filter(({ quality }) => quality.delay_ms + quality.jitter_ms > 0);
    if (slow.length) words.push(`slow to ${others(slow)}${left(slow[0].left_ms)}`);
    const lossy = links.filter(({ quality }) => quality.loss > 0);
    if (lossy.length) words.push(`loses packets to ${others(lossy)}${left(lossy[0].left_ms)}`);
    for (const { kind, left_ms } of node.faults) {
      if (kind !== "link") words.push(`${{ "slow-disk": "slow disk", "failing-disk": "failing disk", "full-disk": "full disk", clock: "wrong clock" }[kind]}${left(left_ms)}`);
    }
    return words.join("; ") || "no fault";
  }

  function row(id) {
    const item = make("li", "lab-node");
    const choice = make("label", "lab-choice");
    const box = make("input");
    box.type = "checkbox";
    box.addEventListener("change", drawChosen);
    choice.append(box, ` node ${id}`);
    const state = make("span", "lab-state");
    const group = make("span", "lab-buttons");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `faults of node ${id}`);
    const buttons = new Map();
    for (const [action, name, title] of BUTTONS) {
      const button = make("button", "", name);
      button.type = "button";
      button.title = title;
      button.addEventListener("click", () => inject(button.dataset.action, [id]));
      button.dataset.action = action;
      buttons.set(action, button);
      group.append(button);
    }
    item.append(choice, state, group);
    return { item, box, state, buttons };
  }

  function draw() {
    for (const { node } of nodes) if (!rows.has(node)) rows.set(node, row(node));
    const key = nodes.map(({ node }) => node).join();
    if ($("lab-nodes").dataset.key !== key) {
      $("lab-nodes").dataset.key = key;
      $("lab-nodes").replaceChildren(...nodes.map(({ node }) => rows.get(node).item));
    }
    for (const node of nodes) {
      const { item, state, buttons } = rows.get(node.node);
      item.dataset.process = node.process;
      item.dataset.faults = String(node.faults.length > 0);
      set(state, inWords(node));
      const freeze = buttons.get("freeze");
      const isFrozen = node.process === "frozen";
      freeze.dataset.action = isFrozen ? "thaw" : "freeze";
      set(freeze, isFrozen ? "Continue" : "Freeze");
      set(buttons.get("start"), node.process === "ended" ? "Start" : "Restart");
      for (const action of ["kill", "freeze", "stop"]) buttons.get(action).disabled = isBusy || node.process === "ended";
      for (const action of ["partition", "slow", "start", "heal"]) buttons.get(action).disabled = isBusy;
    }
    drawChosen();
  }

  const chosen = () => nodes.map(({ node }) => node).filter((node) => rows.get(node).box.checked);

  function drawChosen() {
    const count = chosen().length;
    $("lab-cut").disabled = isBusy || count === 0 || count === nodes.length;
    $("lab-heal").disabled = isBusy;
    $("lab-surprise").disabled = isBusy;
  }

  // ---- faults ----

  const lasts = () => Number($("lab-lasts").value) || null;

  async function inject(action, of) {
    if (isBusy || of.length === 0) return;
    isBusy = true;
    draw();
    const isFault = !["thaw", "start", "heal"].includes(action);
    const { said, why } = await ask({ token, action, nodes: of, for_ms: isFault ? lasts() : null });
    isBusy = false;
    set($("lab-command"), said ? said.command : "");
    const failed = said ? said.results.filter(({ error }) => error) : [];
    // The node that was asked may be the one that was killed: then no answer is the answer.
    const words = said ? (failed.length ? failed.map(({ error }) => error).join("; ") : "in force") : why || "no answer: the node that was asked may be the one that was hit";
    set($("lab-said"), words);
    $("lab-said").dataset.tone = said && !failed.length ? "good" : "poor";
    wake();
  }

  $("lab-cut").addEventListener("click", () => inject("partition", chosen()));
  $("lab-heal").addEventListener("click", () => inject("heal", nodes.map(({ node }) => node)));
  $("lab-surprise").addEventListener("click", () => {
    const running = nodes.filter(({ process }) => process === "running");
    if (running.length) inject(SURPRISES[Math.floor(Math.random() * SURPRISES.length)], [running[Math.floor(Math.random() * running.length)].node]);
  });
};
