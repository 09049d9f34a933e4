// The page: draws each frame, and continues with another node when the one behind it stops answering.
//
// The page itself is the first stream: the server appends a script that calls update(frame). When that ends (the node was
// stopped or killed; browsers do not say so of a document, so a held request tells) or falls silent (it is frozen), the
// newest data stays on screen, greyed and ageing, while the other nodes are asked for /v1/stream; the first one to send a
// frame is followed, until it fails in turn.
// A browser opens six connections to a node. So one tab has a stream, the oldest of those that know each other, and
// passes its frames to the others; when it is closed or frozen, another one opens a stream.
// Nothing is fetched from anywhere else, and no text from outside is ever parsed as HTML.
// Not here: the jobs (jobs.js), the box to run a program in (run.js), the lab (lab.js); they stand before this file, in one script element.
"use strict";

(() => {
  const SILENCE_MS = 2500; // Frames come about twice a second: so long without one means frozen or cut off.
  const AGED_MS = 750; // The health fades when the newest frame is so old.
  const TAKE_OVER_MS = 300; // Tabs whose stream has ended take over at different times within this.
  const HEDGE_MS = 250; // Ask the next node too when one has not sent a frame by then.
  const ATTEMPT_MS = 1500; // Give one node up.
  const RETRY_MS = 400; // Between two rounds when no node answers.
  const HOME_BACK_MS = 3000; // What others say of a lost node is from before it was lost until then.

  const $ = (id) => document.getElementById(id);
  const LOOPBACK = /^(localhost|127\.[\d.]+|\[::1\])(?=:|$)/i;
  const addresses = new Map(); // node id -> http://host:port, never forgotten: a node may come back
  const tiles = new Map(); // node id -> its tile
  let frame = null; // newest frame
  // {node, session, controller, tab}: who is followed; controller is null for the page itself, tab is the id of the
  // browser's tab whose stream this one shares, if it does.
  let source = null;
  let heardAt = performance.now(); // when the newest frame came
  let checkedAt = heardAt;
  let lost = null; // {node, at}: the node that we lost while no other is followed
  let home = null; // the node that the page came from: the only one that takes changes from it
  let homeLostAt = null; // when that one was lost, until it is back
  let frontPort = 0;
  let access = null; // what this page presents to nodes where a password is set: a browser sends cookies to its own host only
  let drawJobs = null;
  let box = null;
  const history = new Map(); // node id -> its commands a second, once a second, for the last minute
  const HISTORY = 60;
  let mustLogIn = false; // a node has refused this page's session
  let sampledAt = 0; // by the clock of the node that sends the frames
  let sampledCommit = 0;
  let commitRate = 0; // entries a second

  // ---- what the server calls ----

  window.hello = (me) => {
    document.currentScript?.remove();
    home = me.node;
    frontPort = me.front_port;
    access = me.access;
    $("logout").hidden = access === null;
    $("logout").addEventListener("click", logOut);
    for (const node of me.nodes) addresses.set(node.id, reached(node));
    source = { node: me.node, session: me.session, controller: null };
    const page = { $, set, make, plural, span, when, pause, lines };
    page.address = (node) => addresses.get(node);
    page.home = () => home;
    page.isHomeHere = () => homeLostAt === null;
    page.followed = () => (source ? source.node : null);
    page.withAccess = withAccess;
    box = runBox(page);
    if (me.is_lab) labPanel(page);
    drawJobs = jobsSection({ ...page, jobLink: box.jobLink });
    heardAt = performance.now();
    setInterval(showAge, 100);
    showLink();
    watch(source);
  };

  window.update = (next) => {
    document.currentScript?.remove(); // or the page would grow forever
    if (isOwnDocument()) take(next);
  };

  const isOwnDocument = () => source !== null && source.controller === null && source.tab === undefined;

  // The page never finishes loading while its node lives.
  document.addEventListener("readystatechange", () => {
    if (document.readyState !== "loading" && isOwnDocument()) lose();
  });

  let isLeaving = false;
  addEventListener("pagehide", () => {
    isLeaving = true;
    if (tabs && source && source.tab === undefined) tabs.postMessage({ ...tab, isLeaving });
  });

  /** The headers of a request, with the session of this page where a password is set. */
  const withAccess = (headers = {}) => (access === null ? headers : { ...headers, Authorization: `Bearer ${access}` });

  async function logOut() {
    // The cookie is gone for all tabs; what is open here is left by the reload.
    await fetch("/logout", { method: "POST", headers: withAccess({ "Content-Type": "application/json" }) }).catch(() => null);
    location.reload();
  }

  /** Learns at once that the node behind the page is gone. */
  async function watch(page) {
    let isHeld = false;
    try {
      const answer = await fetch("/v1/hold", { headers: withAccess(), cache: "no-store" });
      isHeld = answer.ok;
      const reader = answer.body.getReader();
      while (!(await reader.read()).done);
    } catch {
      // Broken off: the same as ended.
    }
    // Without it, silence tells.
    if (isHeld && source === page && !isLeaving) lose();
  }

  // ---- one stream for the tabs of a browser ----

  const tabs = "BroadcastChannel" in window ? new BroadcastChannel("phalanx-frames") : null;
  const tab = { since: Date.now(), id: crypto.getRandomValues(new Uint32Array(1))[0] };
  if (tabs) tabs.onmessage = ({ data }) => hear(data);

  function hear(other) {
    if (!box) return; // hello() has not been called yet
    if (other.isLeaving) {
      if (source && source.tab === other.id) takeOver();
      return;
    }
    const isSenior = other.since < tab.since || (other.since === tab.since && other.id < tab.id);
    // A junior tab hears of this one with the next frame.
    if (source && source.tab === undefined && !isSenior) return;
    const before = source;
    source = { node: other.node, session: other.session, controller: null, tab: other.id };
    if (before && before.controller) before.controller.abort();
    else if (before && before.tab === undefined) window.stop();
    const from = before ? before.node : lost.node;
    lost = null;
    document.documentElement.classList.remove("is-stale");
    if (from !== other.node) {
      if (from === home) homeLostAt = performance.now();
      follows(from, other.node);
    }
    take(other.frame);
    showLink();
  }

  /** The tab whose stream this one shared is closed, or silent. */
  async function takeOver() {
    lost = { node: source.node, at: performance.now() };
    source = null;
    await pause(Math.random() * TAKE_OVER_MS);
    if (!source) search({ prefer: lost.node });
  }

  // ---- following ----

  /** Where this page reaches a node. Its own is where it came from, which may be a proxy; one on loopback is on that machine. */
  function reached(node) {
    if (node.id === home) return location.origin;
    return `http://${LOOPBACK.test(location.hostname) ? node.http : node.http.replace(LOOPBACK, location.hostname)}`;
  }

  function take(next) {
    if (frame && frame.node.id !== next.node.id) sampledAt = 0; // another clock
    frame = next;
    sample();
    heardAt = performance.now();
    for (const node of next.nodes) addresses.set(node.id, reached(node));
    lookForHome();
    draw();
    if (tabs && source.tab === undefined) tabs.postMessage({ ...tab, node: source.node, session: source.session, frame: next });
  }

  /** Whether the node that the page came from is back: others hear it again, and not only from before it was lost. */
  function lookForHome() {
    if (homeLostAt === null) return;
    const row = frame.nodes.find((row) => row.id === home);
    const isHeard = row && row.status !== "OFFLINE" && row.heartbeat_age_ms !== null && row.heartbeat_age_ms < 1000;
    if (source.node === home || (isHeard && performance.now() - homeLostAt > HOME_BACK_MS)) homeLostAt = null;
  }

  /** The node behind the page is gone or silent: keep what we have, look for another. */
  function lose() {
    const gone = source;
    source = null;
    lost = { node: gone.node, at: performance.now() };
    if (gone.node === home) homeLostAt = lost.at;
    if (gone.controller) gone.controller.abort();
    else window.stop(); // a frozen node that thaws must not go on feeding this page
    document.documentElement.classList.add("is-stale");
    notice(`node ${gone.node} stopped answering: looking for another node`, true);
    showLink();
    box.drawGone();
    search({ avoid: gone.node });
  }

  async function search({ avoid, prefer }) {
    while (!source) {
      const found = await firstOf(candidates(avoid, prefer));
      if (source) {
        // Another tab's stream was there first.
        if (found) found.controller.abort();
        return;
      }
      if (found) {
        const from = lost.node;
        source = found;
        lost = null;
        document.documentElement.classList.remove("is-stale");
        if (found.node !== from) follows(from, found.node);
        else if (prefer === undefined) notice(`node ${from} answers again`, false);
        take(found.first);
        showLink();
        pump(found);
        return;
      }
      if (mustLogIn) notice("this session has ended, or the password was changed: reload the page and log in again", true);
      else notice(`no node answers: the last data came from node ${lost.node}; trying again`, true);
      mustLogIn = false;
      await pause(RETRY_MS);
    }
  }

  /** Another node is followed in place of the first. */
  function follows(from, next) {
    notice(`node ${from} stopped answering: now following node ${next}`, false);
    for (const link of document.querySelectorAll("a[data-path]")) link.href = `${addresses.get(next)}${link.dataset.path}`;
  }

  /** A reload would ask the node that the page came from: while that one is gone, the front door is offered. */
  function drawMoved() {
    const next = source && homeLostAt !== null ? source.node : null;
    const key = String(next);
    if ($("moved").dataset.key === key) return;
    $("moved").dataset.key = key;
    $("moved").hidden = next === null;
    if (next === null) return;
    const link = make("a", "", `${addresses.get(next).replace(/:\d+$/, "")}:${frontPort}/`);
    link.href = link.textContent;
    $("moved").replaceChildren(`Node ${home}, which this page came from, is offline: do not reload the page, open `, link, " instead.");
  }

  /** All known nodes: online and least loaded first, the lost one last. */
  function candidates(avoid, prefer) {
    const rows = new Map((frame ? frame.nodes : []).map((row) => [row.id, row]));
    const cost = (id) => {
      const row = rows.get(id);
      const state = !row || row.status === "OFFLINE" ? 1e6 : row.status === "LEADER" ? 1e3 : 0;
      return (id === avoid ? 1e9 : id === prefer ? -1e9 : 0) + state + (row ? row.load : 0);
    };
    return [...addresses.keys()].sort((a, b) => cost(a) - cost(b) || a - b);
  }

  /** Opens streams one after another, a little apart; the first to send a frame wins, the others are dropped. */
  function firstOf(ids) {
    return new Promise((resolve) => {
      const tries = [];
      let started = 0;
      let failed = 0;
      let isOver = false;
      const finish = (winner) => {
        if (isOver) return;
        isOver = true;
        for (const controller of tries) if (!winner || controller !== winner.controller) controller.abort();
        resolve(winner);
      };
      const next = () => {
        if (isOver || started >= ids.length) return;
        const controller = new AbortController();
        tries.push(controller);
        open(ids[started++], controller).then(
          (stream) => (isOver ? controller.abort() : finish(stream)),
          () => (++failed === ids.length ? finish(null) : next()),
        );
        setTimeout(next, HEDGE_MS);
      };
      if (ids.length === 0) setTimeout(() => finish(null), RETRY_MS);
      next();
    });
  }

  async function open(node, controller) {
    const timer = setTimeout(() => controller.abort(), ATTEMPT_MS);
    try {
      const url = `${addresses.get(node)}/v1/stream`;
      const answer = await fetch(url, { headers: withAccess(), signal: controller.signal, cache: "no-store", credentials: "omit" });
      if (answer.status === 401) mustLogIn = true;
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const frames = lines(answer.body.getReader());
      const first = await frames.next();
      if (first.done) throw new Error("ended");
      return { node, controller, frames, first: first.value, session: answer.headers.get("X-Phalanx-Session") };
    } finally {
      clearTimeout(timer);
    }
  }

  /** The lines of a stream, decoded; empty lines are keep-alives. */
  async function* lines(reader) {
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const whole = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = whole.pop();
      for (const line of whole) if (line) yield JSON.parse(line);
    }
  }

  async function pump(stream) {
    try {
      for await (const next of stream.frames) {
        if (source !== stream) return;
        take(next);
      }
    } catch {
      // A broken stream is as over as one that ended.
    }
    if (source === stream) lose();
  }

  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  setInterval(() => {
    const now = performance.now();
    // After a sleep of the computer, or in a tab that was out of sight, frames may be waiting behind this timer.
    if (now - checkedAt > 1500) heardAt = Math.max(heardAt, now - 1000);
    checkedAt = now;
    if (source && now - heardAt > SILENCE_MS) source.tab === undefined ? lose() : takeOver();
    showLink();
    drawMoved();
    for (const time of document.querySelectorAll("time[data-at]")) set(time, ago(Date.now() - Number(time.dataset.at)));
  }, 250);

  /** What is on the screen was true when its frame was built. */
  function showAge() {
    const age = performance.now() - heardAt;
    const isAged = age > AGED_MS;
    document.documentElement.classList.toggle("is-aged", isAged);
    set($("verdict-age"), isAged ? `${(age / 1000).toFixed(1)} s ago` : "");
  }

  // ---- drawing ----

  function set(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function make(tag, name, ...children) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...children);
    return element;
  }

  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  function span(ms) {
    if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
    if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
    if (ms < 120_000) return `${Math.round(ms / 1000)} s`;
    if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
    if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
    return `${Math.round(ms / 86_400_000)} d`;
  }

  const ago = (ms) => (ms < 1500 ? "now" : `${span(Math.max(2000, Math.floor(ms / 1000) * 1000)).replace(".0", "")} ago`);

  function notice(text, isBad) {
    const box = $("notice");
    if (box.firstChild && box.firstChild.textContent === text && isBad) return; // said already
    const time = make("time", "", "now");
    time.dataset.at = Date.now();
    box.replaceChildren(text, make("small", "", time));
    box.classList.toggle("is-bad", isBad);
    box.hidden = false;
  }

  let linkText = "";
  function showLink() {
    const age = performance.now() - heardAt;
    const parts = [];
    if (source) {
      parts.push(["", "live from "], ["b", `node ${source.node}`]);
      if (source.tab !== undefined) parts.push(["", " through another tab"]);
      if (source.session) parts.push(["", ", your session "], ["code", source.session]);
      if (age > 1500) parts.push(["", `, ${span(age)} old`]);
    } else if (lost) {
      parts.push(["", `data of node ${lost.node}, ${span(Math.floor(age / 100) * 100)} old`]);
    }
    const text = parts.join("|");
    if (text === linkText || parts.length === 0) return;
    linkText = text;
    $("link-text").replaceChildren(...parts.map(([tag, words]) => (tag ? make(tag, "", words) : words)));
  }

  function draw() {
    showAge();
    const { cluster, node } = frame;
    const verdict = verdictWords(cluster);
    set($("name"), cluster.name);
    set($("verdict"), verdict);
    $("banner").dataset.verdict = cluster.verdict;
    const reasons = cluster.reasons.join("\n");
    if ($("reasons").dataset.text !== reasons) {
      $("reasons").dataset.text = reasons;
      $("reasons").replaceChildren(...cluster.reasons.map((reason) => make("li", "", reason)));
      $("reasons").hidden = cluster.reasons.length === 0;
    }
    drawLeads(cluster);
    set($("term"), String(cluster.term));
    const commit = Math.max(0, ...frame.nodes.filter((row) => row.status !== "OFFLINE").map((row) => row.commit_index));
    set($("commit"), commit.toLocaleString("en"));
    const online = frame.nodes.filter((row) => row.status !== "OFFLINE");
    set($("rate"), online.reduce((sum, row) => sum + (row.kv_ops_per_s || 0), 0).toLocaleString("en"));
    set($("keys"), Math.max(0, ...online.map((row) => row.keys || 0)).toLocaleString("en"));
    set($("clients"), String(online.reduce((sum, row) => sum + (row.load_parts ? row.load_parts.connections : row.load), 0)));
    drawLine(node);
    drawEvents();
    drawFailovers();
    drawSessions(node);
    drawTry(cluster, frame.nodes);
    const jobs = frame.jobs || { queued: 0, running: 0, workers: [], last: [] }; // an older node knows none
    drawJobs(jobs);
    box.draw(jobs);
    set($("about"), `node ${node.id}, version ${node.version}, up ${span(node.uptime_ms)}`);
    const title = `${cluster.leader === null ? "no leader" : `node ${cluster.leader} leads`}, ${cluster.verdict} · ${cluster.name}`;
    if (document.title !== title) document.title = title;
    const pulse = $("pulse");
    pulse.classList.remove("beat");
    void pulse.offsetWidth;
    pulse.classList.add("beat");
  }

  function verdictWords({ verdict, failure_tolerance: spare, has_quorum: hasQuorum, leader, integrity }) {
    if (integrity && integrity.split) return "unavailable: read-only, no majority agrees on the state";
    if (verdict === "unavailable" && hasQuorum) return `unavailable: ${leader === null ? "no leader yet" : "writes are refused"}`;
    if (verdict === "unavailable") return "unavailable: no majority of the voters is reachable";
    return `${verdict}: ${spare > 0 ? `can lose ${spare} more` : "cannot lose another"}`;
  }

  function drawLeads({ leader, term, voters, learners }) {
    const words = [leader === null ? "no leader" : `node ${leader} leads`, ` in term ${term}, with ${plural(voters.length, "voter")}`];
    if (learners.length) words.push(` and ${plural(learners.length, "learner")}`);
    const text = words.join("");
    if ($("leads").textContent !== text) $("leads").replaceChildren(make("b", "", words[0]), ...words.slice(1));
  }

  /** Commands of its own clients, and of the leader those that other nodes forward to it. */
  const opsOf = (row) => (row.kv_ops_per_s || 0) + (row.led_per_s || 0);

  /** Keeps what each node's clients got, once a second. */
  function sample() {
    const span = frame.at_ms - sampledAt;
    if (span < 950) return;
    const commit = Math.max(0, ...frame.nodes.map((row) => row.commit_index));
    commitRate = sampledAt ? Math.max(0, ((commit - sampledCommit) * 1000) / span) : 0;
    sampledCommit = commit;
    sampledAt = frame.at_ms;
    for (const row of frame.nodes) {
      const past = history.get(row.id) || [];
      past.push(opsOf(row));
      if (past.length > HISTORY) past.shift();
      history.set(row.id, past);
    }
  }

  /** 950, 9.5k, 95k: room for five characters. */
  function short(count) {
    if (count < 10_000) return count.toLocaleString("en");
    if (count < 1e6) return `${(count / 1e3).toFixed(count < 1e5 ? 1 : 0)}k`;
    return `${(count / 1e6).toFixed(count < 1e7 ? 2 : 1)}M`;
  }

  /** A place in the log: exact as long as its tile has room for it. */
  function place(index) {
    return index < 1e6 ? index.toLocaleString("en") : short(index);
  }

  /** A time to answer; there is none where nothing was asked. */
  function latency(us) {
    if (!us) return "-";
    if (us < 1000) return `${us} µs`;
    if (us < 1e6) return `${(us / 1000).toFixed(us < 1e4 ? 1 : 0)} ms`;
    return `${(us / 1e6).toFixed(1)} s`;
  }

  /** The last minute as a line that ends at the right; all tiles share one scale. */
  function drawSpark(tile, past, top) {
    const from = HISTORY - past.length;
    const points = past.map((count, at) => `${from + at} ${(19 - (18 * count) / top).toFixed(1)}`);
    const line = past.length > 1 ? `M${points.join("L")}` : "";
    if (tile.sparkLine.getAttribute("d") === line) return;
    tile.sparkLine.setAttribute("d", line);
    tile.sparkFill.setAttribute("d", line && `${line}V20H${from}z`);
  }

  function stateOf(row) {
    if (row.status === "OFFLINE") return "offline";
    if (row.is_corrupt) return "corrupt";
    if (row.status === "LEADER") return "leader";
    if (row.membership === "learner") return "learner";
    return row.role === "candidate" ? "candidate" : "follower";
  }

  function drawLine(me) {
    const live = frame.nodes.filter((row) => row.status !== "OFFLINE");
    const positions = (live.length ? live : frame.nodes).flatMap((row) => [row.applied_index, row.last_index]);
    const high = Math.max(1, ...positions);
    // The bars show the end of the log, where the difference is: at least the last fifty entries.
    const reach = Math.max(50, (high - Math.min(high, ...positions)) * 1.25);
    const width = (index) => `${Math.max(0, Math.min(100, 100 * (1 - (high - index) / reach)))}%`;
    for (const [id, tile] of tiles) {
      if (!frame.nodes.some((row) => row.id === id)) {
        tile.root.remove();
        tiles.delete(id);
      }
    }
    const top = Math.max(10, ...frame.nodes.flatMap((row) => history.get(row.id) || []));
    for (const row of frame.nodes) {
      const tile = tiles.get(row.id) || addTile(row.id);
      const state = stateOf(row);
      if (tile.root.dataset.state !== state) tile.root.dataset.state = state;
      const address = addresses.get(row.id);
      if (tile.address !== address) {
        tile.address = address;
        tile.who.href = `${address}/`;
        tile.who.title = `open the page of this node, ${address}/`;
      }
      tile.here.hidden = !source || source.node !== row.id;
      const standing = row.membership === "voter" ? row.role : row.membership === "learner" ? "learner" : "joining";
      const role = row.is_witness && row.membership === "voter" ? "witness" : standing;
      set(tile.role, row.status === "OFFLINE" && role === "leader" ? "was leader" : role);
      set(tile.status, row.is_corrupt && row.status !== "OFFLINE" ? "CORRUPT" : row.status);
      const isOnline = row.status !== "OFFLINE";
      set(tile.ops, isOnline ? short(opsOf(row)) : "-");
      set(tile.p50, latency(row.kv_p50_us));
      set(tile.p99, latency(row.kv_p99_us));
      set(tile.keys, isOnline ? short(row.keys || 0) : "-");
      drawSpark(tile, history.get(row.id) || [], top);
      tile.last.style.width = width(row.last_index);
      tile.commit.style.width = width(row.commit_index);
      tile.applied.style.width = width(row.applied_index);
      // Rows of other nodes are as old as their heartbeats: what was committed since then is no lag.
      const isBehind = isOnline && row.lag > 20 + commitRate;
      // The nodes warn of the same second (log_clock.rs).
      const isClockOff = isOnline && Math.abs(row.clock_ahead_ms || 0) >= 1000;
      const clock = isClockOff ? `, clock ${span(Math.abs(row.clock_ahead_ms))} ${row.clock_ahead_ms > 0 ? "ahead" : "behind"}` : "";
      const disk = row.is_disk_low ? ", disk nearly full" : "";
      tile.lag.classList.toggle("is-behind", isBehind || isClockOff || Boolean(row.is_disk_low));
      set(tile.lag, row.status === "OFFLINE" ? "out of the line" : (row.lag === 0 ? "in step" : `${plural(row.lag, "entry").replace("entrys", "entries")} behind`) + clock + disk);
      set(tile.lastIndex, place(row.last_index));
      set(tile.commitIndex, place(row.commit_index));
      set(tile.appliedIndex, place(row.applied_index));
      set(tile.load, String(row.load));
      const parts = loadInWords(row);
      if (tile.loadBox.title !== parts) tile.loadBox.title = parts;
      set(tile.heard, row.id === me.id ? "itself" : row.heartbeat_age_ms === null ? "never" : `${span(row.heartbeat_age_ms)} ago`);
    }
  }

  /** Of what a node's load consists. */
  function loadInWords(row) {
    const of = row.load_parts || { connections: row.load, requests: 0, jobs: 0, cpu: 0 };
    return `what it has to do, as a number of client connections: ${of.connections} open, ${of.requests} for requests, ` +
      `${of.jobs} for jobs, ${of.cpu} for processor time; the front door chooses the node with the least`;
  }

  function addTile(id) {
    const root = $("tile").content.cloneNode(true).firstElementChild;
    const part = (name) => root.querySelector(name);
    const tile = {
      root,
      address: "",
      who: part(".who"),
      here: part(".here"),
      role: part(".role"),
      status: part(".status"),
      last: part(".track .last"),
      commit: part(".track .commit"),
      applied: part(".track .applied"),
      lag: part(".lag"),
      ops: part(".ops"),
      p50: part(".p50"),
      p99: part(".p99"),
      keys: part(".keys"),
      sparkLine: part(".spark-line"),
      sparkFill: part(".spark-fill"),
      lastIndex: part(".last-index"),
      commitIndex: part(".commit-index"),
      appliedIndex: part(".applied-index"),
      load: part(".load"),
      loadBox: part(".load-box"),
      heard: part(".heard"),
    };
    set(part(".number"), String(id));
    set(tile.who, `node ${id}`);
    root.id = `node-${id}`;
    tiles.set(id, tile);
    const after = [...tiles.keys()].filter((other) => other > id).sort((a, b) => a - b)[0];
    $("line").insertBefore(root, after === undefined ? null : tiles.get(after).root);
    return tile;
  }

  /** Rebuilds a list only when what it shows has changed. */
  function list(id, items, key, build) {
    const box = $(id);
    const text = JSON.stringify(items.map(key));
    if (box.dataset.text !== text) {
      box.dataset.text = text;
      box.replaceChildren(...items.map(build));
    }
    const empty = $(`${id}-empty`);
    if (empty) empty.hidden = items.length > 0;
  }

  function when(atMs) {
    const time = make("time", "", ago(Date.now() - atMs));
    time.dataset.at = atMs;
    time.title = new Date(atMs).toLocaleString();
    return time;
  }

  function drawEvents() {
    const newest = frame.events.slice(-30).reverse();
    list("events", newest, (event) => [event.seq, event.at_ms, event.text], (event) => {
      const item = make("li", "", when(event.at_ms), make("span", "", event.text));
      item.dataset.kind = event.kind;
      return item;
    });
  }

  function drawFailovers() {
    list("failovers", frame.failovers.slice(0, 6), (failover) => failover, (failover) => {
      const from = failover.from === null ? "none" : `node ${failover.from}`;
      const change = make("b", "", `${from} → node ${failover.to}`);
      const gap = make("span", "gap", span(failover.leaderless_ms));
      gap.title = "time without a leader";
      const details = make("small", "", `term ${failover.term}, ${failover.cause}, `, when(failover.at_ms));
      return make("li", "", make("div", "change", change, gap), make("div", "change", details, make("small", "", "without a leader")));
    });
  }

  function drawSessions(node) {
    const mine = source ? source.session : null;
    set($("sessions-title"), `${plural(frame.sessions_total, "live session")} on node ${node.id}`);
    list("sessions", frame.sessions, (session) => [session.id, session.kind, session.peer, session.id === mine], (session) => {
      const kind = make("span", "kind", session.id === mine ? "you" : session.kind);
      const age = make("span", "");
      age.append(make("time", ""));
      age.firstChild.dataset.since = session.id;
      const item = make("li", session.id === mine ? "is-mine" : "", make("code", "", session.id), kind, make("span", "", session.peer), age);
      return item;
    });
    const ages = new Map(frame.sessions.map((session) => [session.id, session.age_ms]));
    for (const time of document.querySelectorAll("time[data-since]")) {
      const age = ages.get(time.dataset.since) || 0;
      set(time, age < 1000 ? "new" : span(Math.floor(age / 1000) * 1000).replace(".0", ""));
    }
    const more = frame.sessions_total - frame.sessions.length;
    $("sessions-more").hidden = more <= 0;
    set($("sessions-more"), `and ${more} more`);
  }

  function drawTry({ leader, has_quorum: hasQuorum }, nodes) {
    let words = "No leader: too few voters are online. Start the stopped nodes again and watch them catch up.";
    if (leader !== null) words = `Node ${leader} leads. Stop it and watch another node take over:`;
    else if (hasQuorum) words = "No leader at the moment: an election is in progress.";
    set($("try"), words);
    $("try-list").hidden = leader === null;
    const row = nodes.find(({ id }) => id === leader);
    const pid = row && row.pid ? row.pid : `PID   # node ${leader}, on another host`;
    set($("try-kill"), `kill -9 ${pid}`);
    set($("try-freeze"), `kill -STOP ${pid}`);
  }
})();
