// page.js: draws one recording. Its data is the JSON block #data, made by page.py; nothing else is ever loaded.
// What comes from the recording becomes text nodes and numbers, never markup. Times are ns: in lanes from the start of
// the recording, inside a request from its own start.
"use strict";
(() => {
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const SPACE = "http://www.w3.org/2000/svg";
  const $ = (id) => document.getElementById(id);

  // ------------------------------------------------------------------------------------------------ small tools

  function dress(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }
  const node = (tag, attributes, ...children) => dress(document.createElement(tag), attributes, children);
  const draw = (tag, attributes, ...children) => dress(document.createElementNS(SPACE, tag), attributes, children);
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

  function time(ns) {
    const size = Math.abs(ns);
    if (!size) return "0";
    if (size < 1e3) return `${Math.round(ns)} ns`;
    if (size < 1e6) return `${(ns / 1e3).toFixed(size < 1e4 ? 1 : 0)} µs`;
    if (size < 1e9) return `${(ns / 1e6).toFixed(size < 1e7 ? 2 : size < 1e8 ? 1 : 0)} ms`;
    return `${(ns / 1e9).toFixed(size < 1e10 ? 2 : 1)} s`;
  }
  function bytes(count) {
    if (count < 1000) return `${count} B`;
    if (count < 1e6) return `${(count / 1e3).toFixed(1)} kB`;
    return `${(count / 1e6).toFixed(1)} MB`;
  }
  /** Round times for an axis from a to b with at most `most` of them. */
  function ticks(a, b, most) {
    const rough = Math.max((b - a) / Math.max(most, 1), 1);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough);
    const found = [];
    for (let at = Math.ceil(a / step) * step; at <= b; at += step) found.push(at);
    return { step, found };
  }
  function axisLabel(ns, step) {
    if (ns === 0) return "0";
    const [unit, size] = step >= 1e8 ? ["s", 1e9] : step >= 1e5 ? ["ms", 1e6] : step >= 100 ? ["µs", 1e3] : ["ns", 1];
    return `${+(ns / size).toFixed(3)} ${unit}`;
  }
  /** The first index of a sorted list whose `key` is greater than `value`. */
  function after(list, value, key) {
    let low = 0, high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle][key] > value) high = middle; else low = middle + 1;
    }
    return low;
  }
  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  const motion = () => (still() ? "auto" : "smooth");

  // ------------------------------------------------------------------------------------- the data, made handier

  const WAITS = {
    future: "a future", timer: "a timer", lock: "a lock", queue: "a queue", children: "its child tasks",
    thread: "a thread", pool: "a connection of a pool", upstream: "another service", receive: "the client's bytes",
    drain: "the client to take the answer", event: "an event", io: "input or output", subprocess: "a process",
    yield: "its next turn", message: "a message of the client",
  };
  const FINDINGS = DATA.findings;
  const LANES = DATA.lanes;
  const REQUESTS = DATA.requests.map((raw, index) => ({ ...raw, index }));
  const BY_ID = new Map(REQUESTS.map((request) => [request.id, request]));
  const SPAN = Math.max(DATA.span, 1);

  const frame = (number) => {
    const [file, line, name, whose] = DATA.frames[number];
    return { file: DATA.files[file], line, name: DATA.names[name], whose, source: DATA.source[file] || null };
  };
  const baseName = (path) => path.slice(path.lastIndexOf("/") + 1) || path;
  const short = (found) => `${baseName(found.file)}:${found.line}`;
  /** Where a stack points: the deepest frame of the user's own, else the deepest. */
  function place(stack) {
    const known = DATA.stacks[stack];
    if (!known || !known.frames.length) return null;
    return frame(known.frames[known.shown]);
  }
  const waitOf = (stack) => (DATA.stacks[stack] ? DATA.waits[DATA.stacks[stack].wait] : "future");
  const RIGHT_TO_LEFT = /[\u0590-\u08ff\u200e\u200f\u202a-\u202e\ufb1d-\ufdff\ufe70-\ufefc]/;
  /** "GET /items"; a path that is written from the right, or says so, does not turn what stands around it. */
  const title = (request) => `${request.method} ${RIGHT_TO_LEFT.test(request.path) ? `\u2068${request.path}\u2069` : request.path}`;
  const taskName = (task) => task.name.split(".").slice(-2).join(".").replace("<locals>.", "") || "task";

  /** Whose step it is; of a request that is not shown here, what it is called. */
  const called = (poll) => (poll.request >= 0 ? title(REQUESTS[poll.request]) : poll.name || "a task that is not traced");
  for (const lane of LANES) lane.polls = lane.others.map(([s, e, task, name, stack]) => ({ s, e, request: -1, task, stack, name: DATA.neighbours[name - 1] || "" }));
  for (const request of REQUESTS) {
    request.tasks = request.tasks.map(([id, parent, name, started, ended, polls, awaits]) => ({
      id, parent, name, started, ended,
      // `held`: where the watchdog saw it while it held the loop; `stack`: where it stopped; `from`: where it went on
      polls: polls.map(([s, e, ready, how, stack, held], index) => ({
        s, e, ready, how: DATA.outcomes[how], stack, held, from: index ? polls[index - 1][4] : 0, nth: index,
      })),
      awaits: awaits.map(([s, ready, stack, waker, wakerTask, late, exact]) => ({ s, ready, stack, waker: DATA.wakers[waker], wakerTask, late, exact })),
    }));
    const polls = LANES[request.lane].polls;
    for (const task of request.tasks) {
      for (const poll of task.polls) {
        polls.push({ s: request.at + poll.s, e: request.at + poll.e, request: request.index, task: task.id, stack: poll.held || poll.stack || poll.from });
      }
    }
  }
  for (const lane of LANES) {
    lane.polls.sort((a, b) => a.s - b.s);
    lane.owner = new Map(lane.polls.filter((poll) => poll.request >= 0).map((poll) => [poll.task, poll.request]));
    lane.stalls = lane.stalls.map(([s, e, stack, request, late, victims]) => ({ s, e, stack, request, late, victims }));
    lane.gc = lane.gc.map(([s, e, generation, collected]) => ({ s, e, generation, collected }));
    lane.busy = lane.polls.reduce((sum, poll) => sum + poll.e - poll.s, 0);
    lane.longest = lane.polls.reduce((most, poll) => Math.max(most, poll.e - poll.s), 0);
  }
  /** What else a loop did between two times: the polls of others that overlap it. */
  function others(lane, from, to, except) {
    const polls = LANES[lane].polls, found = [];
    let index = after(polls, from - LANES[lane].longest - 1, "s");
    for (; index < polls.length && polls[index].s < to; index++) {
      if (polls[index].e > from && polls[index].request !== except) found.push(polls[index]);
    }
    return found;
  }

  // ---------------------------------------------------------------------------------------------------- colours

  let ink = {};
  function readInk() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["text", "faint", "line", "panel", "lane", "stall", "gc", "other", "accent"]) {
      ink[name] = style.getPropertyValue(`--${name}`).trim();
    }
    ink.light = +style.getPropertyValue("--poll-light");
    ink.chroma = +style.getPropertyValue("--poll-chroma");
  }
  /** A colour of its own for each request; none of them is the red of a stall. */
  function tint(index, alpha = 1) {
    const hue = 65 + ((index * 137.508 + 150) % 280);
    return `oklch(${ink.light + 0.06 * ((index % 3) - 1)} ${ink.chroma} ${hue} / ${alpha})`;
  }

  // ---------------------------------------------------------------------------------------------- state of the page

  const shown = { request: null, slice: null, sort: "at", step: -1, window: [0, SPAN], zoom: null };
  let matching = REQUESTS;

  function choose(request, options = {}) {
    if (!request) return;
    if (shown.request !== request) {
      stopPlaying();
      shown.request = request;
      shown.zoom = null;
      shown.slice = null;
      shown.step = -1;
    }
    if (!options.quiet) reveal(request);
    drawRequest();
    pick(options.slice || worstSlice(request));
    drawLanes();
    drawList(!options.fromList);
    if (!options.quiet) remember();
  }
  let remembering = 0;
  /** The address names what is shown; not at each step of a slider, for browsers refuse hundreds of changes in a row. */
  function remember() {
    clearTimeout(remembering);
    remembering = setTimeout(() => {
      const part = shown.step >= 0 ? `&step=${shown.step + 1}` : "";
      try { history.replaceState(null, "", `#${shown.request.id}${part}`); } catch { /* a page without an address */ }
    }, 250);
  }
  /** The lanes show the request, with room on both sides. */
  function reveal(request) {
    const [a, b] = shown.window;
    const end = request.at + request.until;
    if (request.at >= a && end <= b && request.until > (b - a) / 200) return;
    const room = Math.max(request.until * 1.5, 1e6);
    shown.window = [Math.max(0, request.at - room), Math.min(SPAN, end + room)];
  }

  // ------------------------------------------------------------------------------------------------------- tip

  const tip = $("tip");
  function showTip(x, y, lines) {
    tip.replaceChildren(...lines.map((line, index) => node(index ? "span" : "b", null, line)));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${clamp(x + 14, 6, innerWidth - box.width - 6)}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
  }
  const hideTip = () => { tip.hidden = true; };

  // ------------------------------------------------------------------------------------------------------ lanes

  const canvas = $("lanes");
  const LANE = 44, AXIS = 22, LEFT = 112, RIGHT = 14;
  let brush = null;

  function laneScale() {
    const width = canvas.clientWidth - LEFT - RIGHT;
    const [a, b] = shown.window;
    return { width, x: (t) => LEFT + ((t - a) / (b - a)) * width, t: (x) => a + ((x - LEFT) / width) * (b - a) };
  }
  function drawLanes() {
    const height = AXIS + LANES.length * LANE + 4;
    canvas.style.height = `${height}px`;
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, width, height);
    const [a, b] = shown.window, scale = laneScale(), right = LEFT + scale.width;
    const font = getComputedStyle(document.body).fontFamily;
    pen.font = `11px ${font}`;
    pen.textBaseline = "middle";
    const { step, found } = ticks(a, b, scale.width / 110);
    for (const at of found) {
      const x = Math.round(scale.x(at)) + 0.5;
      pen.strokeStyle = ink.line;
      pen.beginPath(); pen.moveTo(x, AXIS - 4); pen.lineTo(x, height); pen.stroke();
      pen.fillStyle = ink.faint;
      pen.textAlign = x > right - 24 ? "right" : "center";
      pen.fillText(axisLabel(at, step), x, AXIS / 2);
    }
    LANES.forEach((lane, number) => {
      const top = AXIS + number * LANE + 5, tall = LANE - 12;
      pen.fillStyle = ink.lane;
      round(pen, LEFT, top, scale.width, tall, 5); pen.fill();
      pen.textAlign = "left";
      pen.fillStyle = ink.text;
      pen.font = `600 12px ${font}`;
      pen.fillText(`worker ${lane.slot}`, 2, top + tall / 2 - 7);
      pen.font = `11px ${font}`;
      pen.fillStyle = ink.faint;
      pen.fillText(lane.note, 2, top + tall / 2 + 8);
      pen.save();
      round(pen, LEFT, top, scale.width, tall, 5); pen.clip();
      if (lane.since > a) {  // before this the ring has been overwritten
        pen.fillStyle = ink.line;
        hatch(pen, LEFT, top, scale.x(lane.since) - LEFT, tall, ink.line, 7);
      }
      for (const pause of lane.gc) band(pen, scale, pause, top, tall, ink.gc, true);
      const chosen = shown.request && shown.request.lane === number ? shown.request.index : -1;
      let last = -1, lastX = -9;
      for (let index = after(lane.polls, a - lane.longest - 1, "s"); index < lane.polls.length; index++) {
        const poll = lane.polls[index];
        if (poll.s > b) break;
        const x = scale.x(poll.s), wide = Math.max(scale.x(poll.e) - x, 1.5);
        if (x + wide < LEFT || (x - lastX < 0.3 && wide <= 1.5 && last === poll.request)) continue;
        last = poll.request; lastX = x;
        const faded = shown.request && poll.request !== chosen;
        pen.fillStyle = poll.request < 0 ? ink.other : tint(poll.request, faded ? 0.62 : 1);
        pen.fillRect(x, top + (faded ? 8 : 5), wide, tall - (faded ? 13 : 7));
        if (wide > 70 && (poll.request >= 0 || poll.name)) {
          const from = Math.max(x, LEFT), room = Math.min(x + wide, right) - from - 12;
          if (room > 50) {
            pen.fillStyle = ink.panel;
            pen.font = `600 11px ${font}`;
            pen.fillText(fit(pen, called(poll), room), from + 6, top + tall / 2 + 2);
          }
        }
      }
      for (const stall of lane.stalls) {
        const x = scale.x(stall.s), wide = Math.max(scale.x(stall.e) - x, 2);
        if (x > right || x + wide < LEFT) continue;
        pen.fillStyle = ink.stall;
        pen.fillRect(x, top, wide, 4);
      }
      pen.restore();
      if (chosen >= 0) {
        const x = clamp(scale.x(shown.request.at), LEFT, right);
        const end = clamp(scale.x(shown.request.at + shown.request.until), LEFT, right);
        pen.strokeStyle = ink.accent;
        pen.lineWidth = 1.5;
        pen.beginPath();
        pen.moveTo(x, top + tall - 2); pen.lineTo(x, top + tall + 3.5);
        pen.lineTo(Math.max(end, x + 2), top + tall + 3.5); pen.lineTo(Math.max(end, x + 2), top + tall - 2);
        pen.stroke();
        pen.lineWidth = 1;
        if (shown.step >= 0) {
          const now = Math.round(scale.x(shown.request.at + steps(shown.request)[shown.step].t)) + 0.5;
          pen.beginPath(); pen.moveTo(now, top - 4); pen.lineTo(now, top + tall + 4); pen.stroke();
        }
      }
    });
    if (brush) {
      pen.fillStyle = ink.accent;
      pen.globalAlpha = 0.18;
      pen.fillRect(Math.min(brush.from, brush.to), AXIS, Math.abs(brush.to - brush.from), height - AXIS);
      pen.globalAlpha = 1;
    }
  }
  function round(pen, x, y, w, h, r) { pen.beginPath(); pen.roundRect(x, y, w, h, r); }
  function band(pen, scale, pause, top, tall, colour, hatched) {
    const x = scale.x(pause.s), wide = Math.max(scale.x(pause.e) - x, 2);
    if (hatched) hatch(pen, x, top, wide, tall, colour, 5);
  }
  function hatch(pen, x, y, w, h, colour, step) {
    pen.save();
    pen.beginPath(); pen.rect(x, y, w, h); pen.clip();
    pen.strokeStyle = colour;
    pen.beginPath();
    const from = Math.max(x, LEFT) - h, to = Math.min(x + w, canvas.clientWidth);
    for (let at = from - (from % step); at < to; at += step) { pen.moveTo(at, y + h); pen.lineTo(at + h, y); }
    pen.stroke();
    pen.restore();
  }
  function fit(pen, text, room) {
    if (pen.measureText(text).width <= room) return text;
    let low = 0, high = text.length;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (pen.measureText(text.slice(0, middle) + "…").width <= room) low = middle; else high = middle - 1;
    }
    return low ? text.slice(0, low) + "…" : "";
  }
  function zoomLanes(factor, centre) {
    const [a, b] = shown.window;
    const middle = centre === undefined ? (a + b) / 2 : centre;
    const wide = clamp((b - a) * factor, 2e3, SPAN);
    const from = clamp(middle - ((middle - a) / (b - a)) * wide, 0, SPAN - wide);
    shown.window = [from, from + wide];
    drawLanes();
  }
  function panLanes(part) {
    const [a, b] = shown.window, by = clamp((b - a) * part, -a, SPAN - b);
    shown.window = [a + by, b + by];
    drawLanes();
  }
  function laneAt(event) {
    const box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const number = Math.floor((y - AXIS) / LANE), lane = LANES[number];
    if (!lane || x < LEFT) return { x };
    const t = laneScale().t(x), slack = ((shown.window[1] - shown.window[0]) / laneScale().width) * 2.5;
    let poll = null;
    for (let index = after(lane.polls, t + slack, "s") - 1; index >= 0 && lane.polls[index].s > t - lane.longest - slack; index--) {
      const one = lane.polls[index];
      if (one.e + slack >= t && (!poll || one.e - one.s > poll.e - poll.s)) poll = one;
    }
    const within = (one) => one.s - slack <= t && t <= one.e + slack;
    return { x, t, lane, number, poll, stall: lane.stalls.find(within), pause: lane.gc.find(within) };
  }
  canvas.addEventListener("mousemove", (event) => {
    const at = laneAt(event);
    if (brush) { brush.to = clamp(at.x, LEFT, canvas.clientWidth - RIGHT); drawLanes(); hideTip(); return; }
    const lines = [];
    if (at.poll) {
      const where = place(at.poll.stack), request = REQUESTS[at.poll.request];
      lines.push(called(at.poll), `ran ${time(at.poll.e - at.poll.s)}` + (where ? ` · ${short(where)} ${where.name}` : ""));
      if (request) lines.push(request.id);
    }
    if (at.stall) {
      const where = place(at.stall.stack);
      lines.push(`The loop did not turn for ${time(at.stall.e - at.stall.s)}`);
      if (where) lines.push(`${short(where)} ${where.name}`);
    }
    if (at.pause) lines.push(`Garbage collection, generation ${at.pause.generation}: ${time(at.pause.e - at.pause.s)}`);
    canvas.classList.toggle("over", !!(at.poll && at.poll.request >= 0));
    if (lines.length) showTip(event.clientX, event.clientY, lines); else hideTip();
  });
  canvas.addEventListener("mouseleave", hideTip);
  canvas.addEventListener("mousedown", (event) => {
    if (event.button) return;
    const { x } = laneAt(event);
    brush = { from: clamp(x, LEFT, canvas.clientWidth - RIGHT), to: x };
    event.preventDefault();
    canvas.focus({ preventScroll: true });
  });
  addEventListener("mouseup", (event) => {
    if (!brush) return;
    const done = brush, scale = laneScale();
    brush = null;
    if (Math.abs(done.to - done.from) > 5) {
      const [from, to] = [scale.t(Math.min(done.from, done.to)), scale.t(Math.max(done.from, done.to))];
      shown.window = [clamp(from, 0, SPAN), clamp(Math.max(to, from + 2e3), 0, SPAN)];
    } else if (event.target === canvas) {
      const { poll, stall } = laneAt(event);
      const request = poll ? REQUESTS[poll.request] : stall && BY_ID.get(stall.request);
      if (request) choose(request, { quiet: true, slice: poll && sliceAt(request, poll) });
      if (request) remember();
    }
    drawLanes();
  });
  canvas.addEventListener("dblclick", () => { shown.window = [0, SPAN]; drawLanes(); });
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) zoomLanes(event.deltaY > 0 ? 1.25 : 0.8, laneAt(event).t);
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) panLanes(event.deltaX / 800);
    else return;
    event.preventDefault();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const does = {
      ArrowLeft: () => panLanes(-0.2), ArrowRight: () => panLanes(0.2), "+": () => zoomLanes(0.6), "=": () => zoomLanes(0.6),
      "-": () => zoomLanes(1.7), 0: () => { shown.window = [0, SPAN]; drawLanes(); },
    }[event.key];
    if (!does || event.ctrlKey || event.metaKey || shown.step >= 0) return;
    does();
    event.preventDefault();
    event.stopPropagation();
  });
  $("lanes-in").addEventListener("click", () => zoomLanes(0.6));
  $("lanes-out").addEventListener("click", () => zoomLanes(1.7));
  $("lanes-all").addEventListener("click", () => { shown.window = [0, SPAN]; drawLanes(); });

  // ------------------------------------------------------------------------------------------------ request list

  const list = $("list"), inner = $("list-inner"), ROW = 58;
  const KEYS = {
    at: (r) => r.at, total: (r) => -r.n.total, busy: (r) => -r.n.busy, scheduled: (r) => -r.n.scheduled,
    late: (r) => -r.n.late, kernel: (r) => -r.n.kernel, findings: (r) => -r.findings.length * 1e15 - r.n.total,
  };
  const statusClass = (request) => (request.status ? `s${Math.floor(request.status / 100)}` : "s0");
  function filter() {
    const wanted = $("search").value.trim().toLowerCase(), route = $("route").value, status = $("status").value;
    matching = REQUESTS.filter((request) =>
      (!wanted || title(request).toLowerCase().includes(wanted) || request.id.includes(wanted))
      && (!route || request.route === route)
      && (!status || statusClass(request) === status)
      && (!$("warned").checked || request.findings.length));
    matching.sort((a, b) => KEYS[shown.sort](a) - KEYS[shown.sort](b) || a.at - b.at);
    $("count").textContent = matching.length === REQUESTS.length ? `${matching.length}` : `${matching.length} of ${REQUESTS.length}`;
    list.scrollTop = 0;
    drawList();
  }
  const PARTS = ["kernel", "busy", "scheduled", "late", "idle"];
  /** How the total splits, for a bar: parts of the root task, and what was before and after it. */
  function parts(request) {
    const n = request.n, idle = Math.max(n.idle - n.late, 0);
    return { kernel: n.kernel, busy: n.busy, scheduled: n.scheduled, late: Math.min(n.late, n.idle), idle };
  }
  function bar(request, longest) {
    const found = parts(request), whole = Math.max(request.until, 1);
    const wide = longest ? Math.max(Math.sqrt(whole / longest) * 100, 3) : 100;
    const pieces = PARTS.filter((name) => found[name] / whole > 0.004);
    const scale = Math.max(whole, PARTS.reduce((sum, name) => sum + found[name], 0));
    const line = node("span", { class: "bar-line", "aria-hidden": "true" }, ...pieces.map((name) => node("i", { class: name })));
    line.style.width = `${wide}%`;
    pieces.forEach((name, index) => { line.children[index].style.width = `${(found[name] / scale) * 100}%`; });
    return line;
  }
  function drawList(follow = false) {
    inner.style.height = `${matching.length * ROW}px`;
    const at = matching.indexOf(shown.request);
    if (follow && at >= 0) {
      const top = at * ROW;
      const outside = top < list.scrollTop ? top - list.scrollTop : Math.max(0, top + ROW - list.scrollTop - list.clientHeight);
      if (Math.abs(outside) > 2 * ROW) list.scrollTop = top - list.clientHeight / 2 + ROW / 2;
      else list.scrollTop += outside;
    }
    const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const to = Math.min(matching.length, from + Math.ceil(list.clientHeight / ROW) + 8);
    const longest = REQUESTS.reduce((most, request) => Math.max(most, request.until), 1);
    const rows = [];
    for (let index = from; index < to; index++) {
      const request = matching[index], chosen = request === shown.request;
      const row = node("div", {
        class: `row${chosen ? " chosen" : ""}`, role: "option", id: `row-${request.index}`, "aria-selected": String(chosen),
        "aria-posinset": index + 1, "aria-setsize": matching.length,
        "aria-label": `${title(request)}, ${statusText(request)}, ${time(request.n.total)}` + (request.findings.length ? `, ${plural(request.findings.length, "finding")}` : ""),
        onclick: () => choose(request, { fromList: true }),
      },
        node("span", { class: "swatch" }),
        node("span", { class: "what" }, node("b", null, request.method), " ", node("bdi", null, request.path)),
        node("span", { class: "took" }, time(request.n.total)),
        node("span", { class: `status ${statusClass(request)}` }, statusText(request)),
        node("span", { class: "bar-box" }, bar(request, longest)),
        node("span", { class: "marks" }, request.findings.length ? node("span", { class: `warn ${worst(request)}`, title: request.findings.map((f) => FINDINGS[f].code).join(" ") }, request.findings.length === 1 ? FINDINGS[request.findings[0]].code : `${request.findings.length} findings`) : node("span", { class: "id" }, request.id)));
      row.style.top = `${index * ROW}px`;
      row.firstChild.style.background = tint(request.index);
      rows.push(row);
    }
    if (!matching.length) rows.push(node("p", { class: "empty" }, REQUESTS.length ? "No request fits the filters." : "Nothing was recorded. Switch recording on with “fastserve lens NAME full”, send requests, and export again."));
    inner.replaceChildren(...rows);
    if (shown.request && at >= from && at < to) list.setAttribute("aria-activedescendant", `row-${shown.request.index}`);
    else list.removeAttribute("aria-activedescendant");
  }
  function worst(request) {
    const levels = request.findings.map((number) => FINDINGS[number].level);
    return levels.includes("error") ? "error" : levels.includes("warning") ? "warning" : "note";
  }
  const statusText = (request) => (request.status ? String(request.status) : request.finished ? "–" : "…");
  list.addEventListener("scroll", () => drawList());
  list.addEventListener("keydown", (event) => {
    const here = matching.indexOf(shown.request), page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
    const there = { ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + page, PageUp: here - page, Home: 0, End: matching.length - 1 }[event.key];
    if (there === undefined || shown.step >= 0) return;
    event.preventDefault();
    event.stopPropagation();
    choose(matching[clamp(there, 0, matching.length - 1)]);
  });
  for (const id of ["search", "route", "status", "warned"]) $(id).addEventListener("input", filter);
  $("sort").addEventListener("input", () => { shown.sort = $("sort").value; filter(); });
  function fillFilters() {
    const routes = [...new Set(REQUESTS.map((request) => request.route).filter(Boolean))].sort();
    $("route").append(node("option", { value: "" }, "every route"), ...routes.map((route) => node("option", { value: route }, route)));
    $("route").disabled = !routes.length;
    const names = { s1: "1xx", s2: "2xx", s3: "3xx", s4: "4xx", s5: "5xx", s0: "no answer" };
    const there = new Set(REQUESTS.map(statusClass));
    $("status").append(node("option", { value: "" }, "any status"), ...Object.entries(names).filter(([key]) => there.has(key)).map(([key, text]) => node("option", { value: key }, text)));
  }

  // -------------------------------------------------------------------------------------------- a request in rows

  /** The rows of the waterfall, each with slices that do not overlap: made once for a request. */
  function rowsOf(request) {
    if (request.rows) return request.rows;
    const rows = [], ph = request.phases, until = request.until;
    const phases = { kind: "phases", name: "request", slices: [] };
    const add = (row, kind, s, e, more) => { if (s !== null && e !== null && e > s) row.slices.push({ row, kind, s, e, ...more }); };
    add(phases, "kernel", ph.first === null ? null : ph.first - request.n.kernel, ph.first);
    add(phases, "parse", ph.first, ph.head);
    add(phases, "queue", ph.head, ph.start);
    add(phases, "handler", ph.start, ph.stop === null ? until : ph.stop);
    add(phases, "write", ph.stop, ph.end);
    rows.push(phases);
    const peers = { kind: "client", name: "client", slices: [] };
    for (const [s, e] of request.receives) add(peers, "receive", s, e);
    for (const [s, e] of request.drains) add(peers, "drain", s, e);
    peers.slices.sort((a, b) => a.s - b.s);
    if (peers.slices.length) rows.push(peers);
    const byParent = new Map();
    for (const task of request.tasks) {
      const parent = request.tasks.some((other) => other.id === task.parent && other !== task) ? task.parent : 0;
      byParent.set(parent, [...(byParent.get(parent) || []), task]);
    }
    const visit = (parent, depth) => {
      for (const task of byParent.get(parent) || []) {
        const row = { kind: "task", task, depth, name: taskName(task), slices: [] };
        task.row = row;
        for (const poll of task.polls) {
          if (poll.ready < poll.s) add(row, "scheduled", poll.ready, poll.s, { task, poll });
          row.slices.push({ row, kind: "busy", s: poll.s, e: poll.e, task, poll });
        }
        for (const wait of task.awaits) {
          add(row, "idle", wait.s, wait.ready === null ? until : wait.ready, { task, wait });
        }
        row.slices.sort((a, b) => a.s - b.s || a.e - b.e);
        rows.push(row);
        byParent.get(parent);
        if (task.id !== parent) visit(task.id, depth + 1);
      }
    };
    visit(0, 0);
    const pools = new Map();
    for (const [submitted, s, e, name, kind, task] of request.threads) {
      if (!pools.has(name)) pools.set(name, { kind: "thread", name, slices: [] });
      const row = pools.get(name);
      add(row, "waits", submitted, s, { thread: { submitted, s, e, name, kind, task } });
      add(row, "thread", s, e === null ? until : e, { thread: { submitted, s, e, name, kind, task } });
    }
    for (const row of pools.values()) { row.slices.sort((a, b) => a.s - b.s); rows.push(row); }
    const loop = { kind: "loop", name: "loop, others", slices: [] };
    for (const poll of others(request.lane, request.at, request.at + until, request.index)) {
      const s = Math.max(poll.s - request.at, 0), e = Math.min(poll.e - request.at, until);
      add(loop, "other", s, e, { other: poll });
    }
    for (const stall of LANES[request.lane].stalls) {
      if (stall.e > request.at && stall.s < request.at + until) loop.stalls = [...(loop.stalls || []), stall];
    }
    for (const pause of LANES[request.lane].gc) {
      if (pause.e > request.at && pause.s < request.at + until) add(loop, "gc", Math.max(pause.s - request.at, 0), Math.min(pause.e - request.at, until), { pause });
    }
    loop.slices.sort((a, b) => a.s - b.s);
    if (loop.slices.length || loop.stalls) rows.push(loop);
    request.rows = rows;
    return rows;
  }
  const PHASES = {
    kernel: "kernel", parse: "parse", queue: "queue", handler: "handler", write: "write", receive: "receives", drain: "client slow",
  };
  /** The slice to begin with: what took long, and tells why. */
  function worstSlice(request) {
    let most = null;
    for (const row of rowsOf(request)) {
      if (row.kind === "loop") continue;
      for (const slice of row.slices) {
        if (slice.kind === "handler") continue;
        const telling = slice.wait && slice.wait.late * 2 > slice.e - slice.s ? 1.5 : slice.wait && waitOf(slice.wait.stack) === "children" ? 0.6 : 1;
        const weight = (slice.e - slice.s) * telling * ({ scheduled: 1.4, kernel: 1.3, busy: 1.2 }[slice.kind] || 1);
        if (!most || weight > most.weight) most = { weight, slice };
      }
    }
    return most ? most.slice : rowsOf(request)[0].slices[0] || null;
  }
  function sliceAt(request, poll) {
    for (const row of rowsOf(request)) {
      for (const slice of row.slices) {
        if (slice.kind === "busy" && slice.task.id === poll.task && request.at + slice.s === poll.s) return slice;
      }
    }
    return null;
  }

  // --------------------------------------------------------------------------------------------------- waterfall

  const box = $("waterfall"), GUTTER = 168, TOP = 26, MARGIN = 18;
  const tall = (row) => (row.kind === "task" ? 34 : row.kind === "phases" ? 34 : 28);
  let geometry = null;

  function drawRequest() {
    const request = shown.request;
    $("request-title").replaceChildren(node("span", { class: "swatch" }), node("b", null, request.method), " ", node("bdi", null, request.path), node("span", { class: `status ${statusClass(request)}` }, statusText(request)));
    $("request-title").firstChild.style.background = tint(request.index);
    const facts = [request.id, `worker ${LANES[request.lane].slot}`];
    if (request.route && request.route !== request.path) facts.push(`route ${request.route}`);
    facts.push(`at ${time(request.at)} of the recording`, ...request.flags);
    if (request.tasks.length) facts.push(plural(request.tasks.length, "task"), plural(request.n.polls, "poll"));
    if (request.in) facts.push(`${bytes(request.in)} in`);
    if (request.out) facts.push(`${bytes(request.out)} out`);
    $("request-facts").textContent = facts.join("  ·  ");
    drawFigures(request);
    drawWaterfall();
    drawFindings();
    drawStory(request);
    drawPlayer();
  }
  function drawFigures(request) {
    const n = request.n, figures = [
      ["total", "total", n.total, "from its first byte (in the kernel, where that is known) to its end"],
      ["kernel", "kernel", n.kernel, "its bytes lay in the socket before the loop read them"],
      ["busy", "busy", n.busy, "one of its tasks ran"],
      ["scheduled", "scheduled", n.scheduled, "one of its tasks could run, and the loop was elsewhere"],
      ["idle", "idle", n.idle, "all of its tasks were parked"],
      ["late", "of it late", n.late, "others held the loop before it was woken: so much of the idle time, or less where nobody knows when it was due"],
      ["thread", "threads", n.thread_run, "work ran in threads"],
      ["waits", "thread queue", n.thread_queue, "work waited for a thread"],
      ["drain", "slow client", n.write, "the client did not take the answer"],
    ].filter(([kind, , value]) => value > 0 || ["total", "busy", "idle"].includes(kind));
    const split = node("div", { class: "split", "aria-hidden": "true" }, bar(request, 0));
    $("figures").replaceChildren(split, ...figures.map(([kind, name, value, hint]) =>
      node("div", { class: `figure ${kind}`, role: "listitem", title: hint }, node("span", null, kind === "total" ? null : node("i", { class: `key ${kind}` }), name), node("b", null, time(value)))));
  }
  function patterns() {
    const stripes = (id, angle, wide) => draw("pattern", { id, width: wide, height: wide, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${angle})` },
      draw("rect", { class: `${id}-ground`, width: wide, height: wide }), draw("rect", { class: `${id}-stripe`, width: wide / 2, height: wide }));
    return draw("defs", null, stripes("hatch-scheduled", 45, 7), stripes("hatch-late", -45, 6), stripes("hatch-waits", 45, 6), stripes("hatch-gc", 45, 5),
      draw("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 6.5, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" }, draw("path", { d: "M0 0.5L8 4L0 7.5z", class: "arrow-head" })));
  }
  function drawWaterfall() {
    const request = shown.request, rows = rowsOf(request);
    const width = Math.max(box.clientWidth, 320), gutter = width < 560 ? 108 : GUTTER;
    const [a, b] = shown.zoom || [0, request.until];
    const wide = width - gutter - MARGIN;
    const x = (t) => gutter + ((t - a) / (b - a)) * wide;
    let height = TOP;
    for (const row of rows) { row.top = height; row.tall = tall(row); height += row.tall; }
    height += 10;
    geometry = { x, t: (at) => a + ((at - gutter) / wide) * (b - a), gutter, width, wide, height, a, b };
    const picture = draw("svg", { "aria-hidden": "true", width, height, viewBox: `0 0 ${width} ${height}` }, patterns());
    const { step, found } = ticks(a, b, wide / 90);
    for (const at of found) {
      picture.append(draw("line", { class: "grid", x1: x(at), x2: x(at), y1: TOP - 6, y2: height - 6 }),
        draw("text", { class: "axis", x: clamp(x(at), gutter + 2, width - 22), y: 13, "text-anchor": at <= a ? "start" : "middle" }, axisLabel(at, step)));
    }
    const clip = draw("clipPath", { id: "inside" }, draw("rect", { x: gutter, y: 0, width: wide + 1, height }));
    picture.firstChild.append(clip);
    rows.forEach((row, index) => {
      if (index % 2) picture.append(draw("rect", { class: "stripe", x: 0, y: row.top, width, height: row.tall }));
      const label = row.kind === "task" ? row.name : row.name, indent = 8 + (row.depth || 0) * 12;
      const shownLabel = label.length * 6.6 > gutter - indent - 26 ? label.slice(0, Math.max(3, Math.floor((gutter - indent - 34) / 6.6))) + "…" : label;
      const text = draw("text", { class: `label ${row.kind}`, x: indent, y: row.top + row.tall / 2 }, row.depth ? "└ " : "", shownLabel);
      text.append(draw("title", null, row.task ? `task ${row.task.id}${row.task.parent ? ` of ${row.task.parent}` : ""}: ${row.task.name}` : label));
      picture.append(text);
      if (row.task) picture.append(draw("text", { class: "number", x: gutter - 8, y: row.top + row.tall / 2, "text-anchor": "end" }, String(row.task.id)));
    });
    const field = draw("g", { "clip-path": "url(#inside)" });
    picture.append(field);
    for (const row of rows) drawSlices(field, row, request, geometry);
    for (const [t, text] of request.marks) {
      if (t < a || t > b) continue;
      field.append(draw("g", { class: "flag" }, draw("line", { x1: x(t), x2: x(t), y1: TOP - 4, y2: height - 8 }), draw("circle", { cx: x(t), cy: TOP - 4, r: 3 }), draw("title", null, `${text} at ${time(t)}`), draw("text", { x: x(t) + (x(t) > width - 150 ? -6 : 6), y: TOP - 1, "text-anchor": x(t) > width - 150 ? "end" : "start" }, text.slice(0, 40))));
    }
    if (request.phases.response !== null && request.phases.response >= a && request.phases.response <= b) {
      const at = x(request.phases.response);
      field.append(draw("g", { class: "answer" }, draw("path", { d: `M${at} ${TOP + 3}l5 -5h-10z` }), draw("title", null, `the head of the answer left at ${time(request.phases.response)}`)));
    }
    for (const [due, late, task] of request.timers) {
      const row = rows.find((one) => one.task && one.task.id === task);
      if (!row || late < LATE || due < a || due > b) continue;
      field.append(draw("g", { class: "due" }, draw("line", { x1: x(due), x2: x(due), y1: row.top + 4, y2: row.top + row.tall - 4 }), draw("title", null, `this timer was due at ${time(due)} and ran ${time(late)} late`)));
    }
    drawArrows(field, rows, geometry);
    picture.append(draw("line", { id: "playhead", class: "playhead", x1: 0, x2: 0, y1: 4, y2: height - 4, visibility: "hidden" }));
    box.replaceChildren(picture);
    $("request-head").classList.toggle("zoomed", !!shown.zoom);
    markSlice();
    movePlayhead();
  }
  function drawSlices(field, row, request, { x, a, b }) {
    let from = 0, blurred = null;
    const middle = row.top + row.tall / 2;
    while (from < row.slices.length && row.slices[from].e < a) from++;
    for (let index = from; index < row.slices.length && row.slices[index].s <= b; index++) {
      const slice = row.slices[index], left = x(Math.max(slice.s, a)), right = x(Math.min(slice.e, b));
      const exact = right - left;
      if (exact < 0.4 && row.slices.length > 300) {  // many in one pixel: one of them stands for all
        if (blurred === Math.floor(left * 2)) continue;
        blurred = Math.floor(left * 2);
      }
      const thick = { busy: 18, other: 12, handler: 20, kernel: 20, parse: 20, queue: 20, write: 20, scheduled: 18, gc: 12 }[slice.kind] || 14;
      const group = draw("g", { class: `slice ${slice.kind}${slice.kind === "busy" && slice.poll.how === "raised" ? " raised" : ""}` });
      if (slice.kind === "idle") {
        group.append(draw("rect", { class: "hit", x: left, y: middle - 9, width: Math.max(exact, 1), height: 18 }),
          draw("line", { x1: left, x2: right, y1: middle, y2: middle }));
        if (slice.wait.late > 0) {
          const from = x(Math.max(slice.e - slice.wait.late, slice.s));
          group.append(draw("rect", { class: "late", x: from, y: middle - 6, width: Math.max(x(slice.e) - from, 1), height: 12, rx: 2 }));
        }
        const text = waitOf(slice.wait.stack), where = place(slice.wait.stack);
        const says = where ? `${text} · ${short(where)}` : text;
        if (exact > says.length * 5.6 + 14) group.append(paper(says, (left + right) / 2, middle));
        else if (exact > text.length * 5.6 + 12) group.append(paper(text, (left + right) / 2, middle));
      } else {
        const shape = draw("rect", { class: "body", x: left, y: middle - thick / 2, width: Math.max(exact, slice.kind === "busy" ? 2.5 : 1.5), height: thick, rx: exact > 6 ? 3 : 1 });
        group.append(shape);
        if (slice.kind === "other" && slice.other.request >= 0) shape.style.fill = tint(slice.other.request);
        const says = label(slice);
        if (says && exact > says.length * 6 + 12) group.append(draw("text", { x: (left + right) / 2, y: middle, "text-anchor": "middle" }, says));
        else if (says && slice.kind === "other" && exact > 42) group.append(draw("text", { x: (left + right) / 2, y: middle, "text-anchor": "middle" }, says.slice(0, Math.floor((exact - 10) / 6.4) - 1) + "…"));
      }
      slice.element = group;
      group.addEventListener("click", () => { if (!dragged) { pick(slice); if (slice.kind === "other" && slice.other.request >= 0 && slice === lastOther) choose(REQUESTS[slice.other.request]); lastOther = slice; } });
      group.addEventListener("mousemove", (event) => showTip(event.clientX, event.clientY, tipOf(slice)));
      group.addEventListener("mouseleave", hideTip);
      field.append(group);
    }
    for (const stall of row.stalls || []) {
      const left = x(Math.max(stall.s - request.at, a)), right = x(Math.min(stall.e - request.at, b));
      if (right > left) field.append(draw("rect", { class: "stalled", x: left, y: row.top + 2, width: right - left, height: 3 }));
    }
  }
  let lastOther = null;
  /** A word on an idle line, on a piece of paper of its own. */
  function paper(text, x, y) {
    return draw("g", { class: "paper" }, draw("rect", { x: x - text.length * 2.85 - 5, y: y - 8, width: text.length * 5.7 + 10, height: 16 }), draw("text", { x, y, "text-anchor": "middle" }, text));
  }
  function label(slice) {
    if (slice.kind in PHASES) return PHASES[slice.kind];
    if (slice.kind === "scheduled") return "ready";
    if (slice.kind === "other" && (slice.other.request >= 0 || slice.other.name)) return called(slice.other);
    if (slice.kind === "busy") { const where = place(slice.poll.held); return where ? short(where) : ""; }
    if (slice.kind === "thread") return "runs";
    if (slice.kind === "waits") return "waits";
    return "";
  }
  function drawArrows(field, rows, { x, a, b }) {
    const byTask = new Map(rows.filter((row) => row.task).map((row) => [row.task.id, row]));
    const threads = rows.filter((row) => row.kind === "thread"), loop = rows.find((row) => row.kind === "loop");
    let drawn = 0;
    for (const row of byTask.values()) {
      for (const wait of row.task.awaits) {
        if (wait.ready === null || wait.ready < a || wait.ready > b || drawn > 400) continue;
        let from = null;
        if (wait.waker === "task") {
          from = byTask.get(wait.wakerTask);
          const owner = LANES[shown.request.lane].owner.get(wait.wakerTask);
          if (!from && loop && owner !== undefined && owner !== shown.request.index) from = loop;
        } else if (wait.waker === "thread") {
          from = threads.find((one) => one.slices.some((slice) => slice.kind === "thread" && Math.abs(slice.e - wait.ready) < 5e6 && slice.e <= wait.ready + 1e3));
        }
        const at = x(wait.ready), middle = row.top + row.tall / 2;
        if (!from || from === row) {
          if (["timer", "io", "thread"].includes(wait.waker)) field.append(draw("g", { class: "woken" }, draw("circle", { cx: at, cy: middle, r: 3 }), draw("title", null, `woken by ${wakerText(shown.request, wait)}`)));
          continue;
        }
        drawn++;
        const down = from.top < row.top, start = from.top + from.tall / 2 + (down ? 7 : -7), end = middle + (down ? -10 : 10);
        field.append(draw("path", { class: "wake", d: `M${at} ${start}C${at - 9} ${(start * 2 + end) / 3} ${at - 9} ${(start + end * 2) / 3} ${at} ${end}`, "marker-end": "url(#arrow)" }));
      }
    }
    for (const row of byTask.values()) {  // who spawned it
      const parent = byTask.get(row.task.parent);
      if (!parent || parent === row || row.task.started < a || row.task.started > b) continue;
      const at = x(row.task.started);
      field.append(draw("path", { class: "spawn", d: `M${at} ${parent.top + parent.tall / 2 + 8}V${row.top + row.tall / 2 - 9}` }));
    }
  }
  function tipOf(slice) {
    const lines = [`${NAMES[slice.kind]} · ${time(slice.e - slice.s)}`];
    if (slice.task) lines.push(`task ${slice.task.id} ${slice.task.name}`);
    const where = slice.wait ? place(slice.wait.stack) : slice.poll && slice.kind === "busy" ? place(slice.poll.held || slice.poll.stack) : slice.other ? place(slice.other.stack) : null;
    if (slice.wait) lines.push(`waits for ${WAITS[waitOf(slice.wait.stack)]}`);
    if (slice.other) lines.push(called(slice.other));
    if (where) lines.push(`${short(where)} ${where.name}`);
    lines.push(`from ${time(slice.s)} to ${time(slice.e)}`);
    return lines;
  }

  const LATE = 2e6;  // of a timer, to be told: uvloop's have a grain of 1 ms
  // drag to zoom, double click for all, keys from slice to slice
  let drag = null, dragged = false;
  box.addEventListener("mousedown", (event) => {
    const left = event.clientX - box.getBoundingClientRect().left;
    dragged = false;
    if (event.button || !geometry || left < geometry.gutter) return;
    drag = { from: left, to: left };
  });
  addEventListener("mousemove", (event) => {
    if (!drag) return;
    drag.to = clamp(event.clientX - box.getBoundingClientRect().left, geometry.gutter, geometry.gutter + geometry.wide);
    if (Math.abs(drag.to - drag.from) < 5) return;
    dragged = true;
    hideTip();
    const picture = box.firstChild;
    let area = picture.querySelector(".brush");
    if (!area) picture.append(area = draw("rect", { class: "brush", y: TOP - 6, height: geometry.height - TOP }));
    area.setAttribute("x", Math.min(drag.from, drag.to));
    area.setAttribute("width", Math.abs(drag.to - drag.from));
    event.preventDefault();
  });
  addEventListener("mouseup", () => {
    if (!drag) return;
    const done = drag;
    drag = null;
    if (Math.abs(done.to - done.from) < 5) return;
    zoomTo(geometry.t(Math.min(done.from, done.to)), geometry.t(Math.max(done.from, done.to)));
  });
  box.addEventListener("dblclick", () => zoomTo(0, shown.request.until));
  box.addEventListener("wheel", (event) => {
    if (!(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    zoomBy(event.deltaY > 0 ? 1.25 : 0.8, geometry.t(event.clientX - box.getBoundingClientRect().left));
  }, { passive: false });
  function zoomTo(from, to) {
    const until = shown.request.until, a = clamp(from, 0, until), b = clamp(Math.max(to, a + 200), 0, until);
    shown.zoom = b - a >= until * 0.999 || b <= a ? null : [a, b];
    drawWaterfall();
  }
  function zoomBy(factor, centre) {
    const [a, b] = shown.zoom || [0, shown.request.until], middle = centre === undefined ? (a + b) / 2 : centre;
    zoomTo(middle - (middle - a) * factor, middle + (b - middle) * factor);
  }
  box.addEventListener("keydown", (event) => {
    if (!shown.request || shown.step >= 0 || event.ctrlKey || event.metaKey) return;
    const rows = rowsOf(shown.request).filter((row) => row.slices.length), slice = shown.slice;
    const row = slice ? rows.indexOf(slice.row) : 0, index = slice && row >= 0 ? rows[row].slices.indexOf(slice) : 0;
    const near = (other) => other && other.slices.reduce((best, one) => (Math.abs(one.s - slice.s) < Math.abs(best.s - slice.s) ? one : best), other.slices[0]);
    const does = {
      ArrowRight: () => rows[row].slices[index + 1], ArrowLeft: () => rows[row].slices[index - 1],
      ArrowDown: () => near(rows[row + 1]), ArrowUp: () => near(rows[row - 1]),
      Home: () => rows[row].slices[0], End: () => rows[row].slices[rows[row].slices.length - 1],
    }[event.key];
    if (does) { const next = slice ? does() : rows[0] && rows[0].slices[0]; if (next) pick(next); }
    else if (event.key === "+" || event.key === "=") zoomBy(0.6, slice ? (slice.s + slice.e) / 2 : undefined);
    else if (event.key === "-") zoomBy(1.7);
    else if (event.key === "0") zoomTo(0, shown.request.until);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  // -------------------------------------------------------------------------------------------- the chosen slice

  const NAMES = {
    kernel: "In the kernel", parse: "Read and parsed", queue: "Before the handler", handler: "The handler", write: "The end of the answer",
    receive: "Waits for the client's bytes", drain: "The client does not take the answer", busy: "Runs", scheduled: "Ready, not run",
    idle: "Parked", waits: "Waits for a thread", thread: "Runs in a thread", other: "Another request runs", gc: "Garbage collection",
  };
  function pick(slice) {
    shown.slice = slice;
    markSlice();
    drawSlice();
  }
  function markSlice() {
    for (const old of box.querySelectorAll(".slice.chosen")) old.classList.remove("chosen");
    if (shown.slice && shown.slice.element && shown.slice.element.isConnected) shown.slice.element.classList.add("chosen");
  }
  function wakerText(request, wait) {
    if (wait.waker === "task") {
      const owner = LANES[request.lane].owner.get(wait.wakerTask), other = owner === undefined ? null : REQUESTS[owner];
      return other && other !== request ? `task ${wait.wakerTask} of ${title(other)} (${other.id})` : `task ${wait.wakerTask}`;
    }
    return { timer: "a timer", io: "the loop (a socket, or a callback)", thread: "a thread", cancel: "a cancellation", self: "itself" }[wait.waker] || "something the lens did not see";
  }
  function wakerNode(request, wait) {
    const owner = wait.waker === "task" ? LANES[request.lane].owner.get(wait.wakerTask) : undefined;
    const other = owner === undefined || REQUESTS[owner] === request ? null : REQUESTS[owner];
    if (!other) return wakerText(request, wait);
    return node("span", null, `task ${wait.wakerTask} of `, link(other));
  }
  const link = (request) => node("button", { class: "link", type: "button", onclick: () => choose(request) }, node("bdi", null, title(request)), ` (${request.id})`);

  function drawSlice() {
    const slice = shown.slice, request = shown.request, out = $("slice");
    if (!slice) { out.replaceChildren(node("p", { class: "empty" }, "Click a slice of the waterfall.")); return; }
    const children = [];
    children.push(node("p", { class: "slice-name" }, node("i", { class: `key ${slice.kind}` }), node("b", null, NAMES[slice.kind]), node("span", { class: "amount" }, time(slice.e - slice.s))));
    children.push(node("p", { class: "hint" }, `from ${time(slice.s)} to ${time(slice.e)}`, node("span", { class: "truth" }, truth(slice))));
    children.push(...sentences(request, slice).map((one) => node("p", null, ...[one].flat())));
    let stack = 0;
    if (slice.wait) stack = slice.wait.stack;
    else if (slice.kind === "busy") stack = slice.poll.held || slice.poll.stack || slice.poll.from;
    else if (slice.other) stack = slice.other.stack;
    const where = slice.wait ? "It waits here" : slice.kind !== "busy" ? "Where" : slice.poll.held ? "Seen here while it held the loop" : slice.poll.stack ? "It ran up to here" : "It went on from here";
    if (DATA.stacks[stack] && DATA.stacks[stack].frames.length) children.push(node("h3", null, where), chain(stack));
    const from = slice.wait ? slice.e - slice.wait.late : slice.s;
    const held = ["scheduled", "kernel", "queue"].includes(slice.kind) || from < slice.e ? others(request.lane, request.at + from, request.at + slice.e, request.index) : [];
    if (held.length && slice.kind !== "busy" && slice.kind !== "other") children.push(node("h3", null, slice.wait ? "Before it was woken the loop ran" : "Meanwhile the loop ran"), meanwhile(request, from, slice.e, held));
    out.replaceChildren(...children);
  }
  function truth(slice) {
    if (slice.kind === "kernel") return "measured by the kernel, in whole ms";
    if (slice.wait && slice.wait.late > 0) return `measured; late by ${slice.wait.exact ? "" : "at most "}${time(slice.wait.late)}`;
    if (slice.kind === "other" || slice.kind === "handler") return "derived";
    return "measured";
  }
  function sentences(request, slice) {
    const lane = LANES[request.lane];
    switch (slice.kind) {
      case "kernel": return ["The bytes of the request lay in the socket. The loop had not come round to read them: no clock of an application sees this wait."];
      case "parse": return ["From the first byte read to the end of the head. Long, when the client sends its head in pieces."];
      case "queue": return ["The head was complete, and the handler had not begun."];
      case "handler": return ["From the first step of the handler's task to its last. Its rows are below: busy + scheduled + idle is exactly this."];
      case "write": return ["From the handler's end to the end of the request: the last bytes are handed to the socket."];
      case "receive": return ["The handler awaited bytes of the body, and the client had not sent them."];
      case "drain": return ["The socket is full: the client takes the answer more slowly than it is made. The handler's next write waits."];
      case "gc": return [`The garbage collector stopped the whole process (generation ${slice.pause.generation}` + (slice.pause.collected ? `, ${slice.pause.collected} objects freed).` : ").")];
      case "waits": return [`Handed over at ${time(slice.thread.submitted)}; no thread was free until ${time(slice.thread.s)}.`];
      case "thread": return [`In ${slice.thread.name}. The loop is free meanwhile` + (slice.thread.task ? `, and task ${slice.thread.task} is parked on the future of this call.` : ".")];
      case "other": {
        const other = REQUESTS[slice.other.request];
        const long = slice.other.e - slice.other.s > 2e7 ? " A step this long holds the loop: nobody else runs." : "";
        return [["This is a step of ", other ? link(other) : called(slice.other), ", on the same loop.", long]];
      }
      case "scheduled": return [`Task ${slice.task.id} was in the ready queue. Its future was done; the loop had not come round to it. This is scheduling delay: not its own code, not its resource.`];
      case "idle": {
        const wait = slice.wait, kind = waitOf(wait.stack);
        const first = `Task ${slice.task.id} is parked on ${kind === "future" ? "a future" : WAITS[kind]}. Nobody polls it: that would not help, the future is not done.`;
        if (wait.ready === null) return [first, "It was still parked when the recording was taken."];
        return [first, ["Woken by ", wakerNode(request, wait), "."]];
      }
      case "busy": {
        const how = slice.poll.how, index = slice.task.polls.indexOf(slice.poll);
        const nth = slice.task.polls.length > 1 ? `Step ${index + 1} of ${slice.task.polls.length} of task ${slice.task.id}` : `The only step of task ${slice.task.id}`;
        const end = { suspended: "It ended at an await that had to wait.", returned: "It ended with the result of the task.", raised: "It ended with an exception.", cancelled: "It ended as cancelled." }[how] || "It had not ended.";
        return [`${nth} (one poll: one call of send()). ${end}`, ...(slice.e - slice.s > 2e7 ? [`Nobody else on worker ${lane.slot} could run for ${time(slice.e - slice.s)}.`] : [])];
      }
    }
    return [];
  }
  function chain(stack) {
    const { frames, shown: main } = DATA.stacks[stack], wait = waitOf(stack);
    const rows = [];
    let folded = [];
    const unfold = () => {
      if (!folded.length) return;
      const kept = folded;
      folded = [];
      if (kept.length < 2) { rows.push(...kept.map((one) => frameRow(one, false))); return; }
      const row = node("li", { class: "folded" }, node("button", { class: "link", type: "button", onclick: () => row.replaceWith(...kept.map((one) => frameRow(one, false))) }, `${kept.length} frames of libraries`));
      rows.push(row);
    };
    frames.forEach((number, index) => {
      const one = frame(number);
      if (one.whose === 0 || index === main) { unfold(); rows.push(frameRow(one, index === main)); } else folded.push(one);
    });
    unfold();
    if (wait && wait !== "future") rows.push(node("li", { class: "leaf" }, `→ ${WAITS[wait]}`));
    return node("ol", { class: "chain" }, ...rows);
  }
  function frameRow(one, main) {
    const children = [node("span", { class: "fn" }, one.name), node("span", { class: "at", title: one.file }, node("bdi", null, short(one)))];
    const lines = main ? source(one) : null;
    return node("li", { class: main ? "main" : one.whose ? "theirs" : "" }, ...children, lines);
  }
  function source(one, around = 3) {
    if (!one.source || one.source[one.line] === undefined) return null;
    const from = Math.min(...Object.keys(one.source).map(Number).filter((line) => Math.abs(line - one.line) <= around));
    const rows = [];
    const texts = [];
    for (let line = from; line <= one.line + around && one.source[line] !== undefined; line++) texts.push(one.source[line]);
    const margin = Math.min(...texts.filter((text) => text.trim()).map((text) => text.length - text.trimStart().length));
    texts.forEach((text, index) => {
      const line = from + index;
      rows.push(node("span", { class: line === one.line ? "line now" : "line" }, node("i", null, String(line)), ...painted(text.slice(margin))));
    });
    return node("pre", { tabindex: "0", "aria-label": `Source around line ${one.line}` }, ...rows);
  }
  const WORDS = /(#.*$)|("""(?:(?!""").)*(?:"""|$)|'''(?:(?!''').)*(?:'''|$)|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|\b(async|await|def|class|return|yield|from|import|if|elif|else|for|while|with|as|try|except|finally|raise|in|is|not|and|or|None|True|False|lambda|pass|break|continue|match|case|global|nonlocal|assert|del)\b|\b(\d[\w.]*)\b/g;
  function painted(text) {
    const out = [];
    let at = 0;
    for (const match of text.matchAll(WORDS)) {
      if (match.index > at) out.push(text.slice(at, match.index));
      out.push(node("b", { class: match[1] ? "comment" : match[2] ? "string" : match[3] ? "word" : "digit" }, match[0]));
      at = match.index + match[0].length;
    }
    out.push(text.slice(at) + "\n");
    return out;
  }
  function meanwhile(request, from, to, held) {
    const sums = new Map();
    for (const poll of held) {
      const over = Math.min(poll.e, request.at + to) - Math.max(poll.s, request.at + from);
      const key = poll.request < 0 ? called(poll) : poll.request, old = sums.get(key) || { sum: 0, longest: 0, poll };
      old.sum += over;
      if (over > old.longest) { old.longest = over; old.poll = poll; }
      sums.set(key, old);
    }
    const most = [...sums.entries()].sort((a, b) => b[1].sum - a[1].sum);
    const rows = most.slice(0, 6).map(([key, { sum, poll }]) => {
      const where = place(poll.stack), swatch = node("span", { class: "swatch" });
      if (typeof key === "number") swatch.style.background = tint(key);
      return node("li", null, swatch, typeof key === "number" ? link(REQUESTS[key]) : key, node("span", { class: "amount" }, time(sum)), where ? node("span", { class: "at" }, `${short(where)} ${where.name}`) : null);
    });
    if (most.length > 6) rows.push(node("li", { class: "hint" }, `and ${plural(most.length - 6, "other request")}`));
    return node("ul", { class: "meanwhile" }, ...rows);
  }

  // --------------------------------------------------------------------------------------------------- findings

  function findingNode(number) {
    const one = FINDINGS[number];
    const elsewhere = one.requests.filter((id) => id !== (shown.request && shown.request.id) && BY_ID.has(id));
    return node("article", { class: `finding ${one.level}` },
      node("h3", null, node("span", { class: "code" }, one.code), " ", one.title, node("span", { class: "truth" }, one.sure)),
      node("p", null, one.text),
      one.place ? node("p", { class: "at" }, node("bdi", null, one.place)) : null,
      one.fix ? node("p", { class: "fix" }, cap(one.fix) + (/[.!?)]$/.test(one.fix) ? "" : ".")) : null,
      elsewhere.length ? node("p", { class: "hint" }, "also: ", ...elsewhere.slice(0, 3).flatMap((id, index) => [index ? ", " : "", link(BY_ID.get(id))]), elsewhere.length > 3 ? ` and ${elsewhere.length - 3} more` : null) : null);
  }
  function drawFindings() {
    const request = shown.request, own = request ? request.findings : [];
    const rest = FINDINGS.map((_, index) => index).filter((index) => !own.includes(index));
    const children = own.map(findingNode);
    if (!own.length) children.push(node("p", { class: "empty" }, FINDINGS.length ? "None for this request." : "None in this recording."));
    if (rest.length) children.push(node("details", { "aria-label": "Findings in the rest of the recording" }, node("summary", null, `${own.length ? rest.length : ""} in the rest of the recording`.trim()), ...rest.slice(0, 40).map(findingNode)));
    $("findings").replaceChildren(...children);
    $("findings-count").textContent = own.length ? String(own.length) : "";
  }
  function drawBanner() {
    const one = FINDINGS[0], banner = $("main-finding");
    if (!one || one.level === "note") return;
    const request = one.requests.map((id) => BY_ID.get(id)).find(Boolean);
    banner.hidden = false;
    banner.classList.add(one.level);
    banner.replaceChildren(node("span", { class: "code" }, one.code), node("b", null, one.title), node("span", { class: "says" }, one.text), node("span", { class: "grow" }), request ? node("button", { type: "button", onclick: () => choose(request) }, "Show it") : "");
  }

  // ------------------------------------------------------------------------------------------------------- steps

  /** The life of a request as a list of events, each with where every task is after it. Made once for a request. */
  function steps(request) {
    if (request.steps) return request.steps;
    const found = [], ph = request.phases, lane = LANES[request.lane];
    const add = (t, order, says, change, more) => found.push({ t, order, says, change: change || (() => {}), ...more });
    const NOW = (task) => `task ${task.id}`;
    if (request.n.kernel > 0 && ph.first !== null) {
      const held = others(request.lane, request.at + ph.first - request.n.kernel, request.at + ph.first, request.index).sort((a, b) => b.e - b.s - (a.e - a.s))[0];
      const why = held ? ` The loop was inside ${called(held)}.` : "";
      add(ph.first - request.n.kernel, 0, `The request's bytes arrive in the kernel. They wait there for ${time(request.n.kernel)}, until the loop reads the socket.${why}`, (at) => { at.loop = held || null; }, { stack: held ? held.stack : 0, phase: "kernel" });
    }
    if (ph.head !== null) add(ph.head, 1, `The loop has read and parsed the head: ${title(request)}.` + (ph.first !== null && ph.head > ph.first ? ` That took ${time(ph.head - ph.first)}.` : ""), (at) => { at.loop = null; });
    for (const task of request.tasks) {
      const root = !request.tasks.some((other) => other.id === task.parent && other !== task), first = task.polls[0];
      const direct = first && first.ready >= first.s;
      if (!direct || !root) add(task.started, 2, root ? `${cap(NOW(task))} is made for the handler, ${task.name}(), and put into the ready queue.` : `Task ${task.parent} spawns ${NOW(task)}, ${task.name}(): it goes into the ready queue, and runs when the loop comes to it.`, (at) => { at.tasks.set(task.id, "ready"); }, { task });
      task.polls.forEach((poll, index) => {
        const late = poll.s - poll.ready;
        if (late > 5e5 && index) {
          const held = others(request.lane, request.at + poll.ready, request.at + poll.s, request.index).sort((a, b) => b.e - b.s - (a.e - a.s))[0];
          if (held) add(Math.max(poll.ready + 1, held.s - request.at), 6.4, `${cap(NOW(task))} could run now, but the loop is inside ${called(held)}` + (place(held.stack) ? ` (${short(place(held.stack))})` : "") + `. It stays in the ready queue for ${time(late)}: scheduling delay.`, (at) => { at.loop = held; }, { task, stack: held.stack, foreign: true });
          // from when it holds the loop: until then the loop may have run another task of this request
        }
        const again = index ? `again, from where it stopped` : direct && root ? `at once, inside the read: its first step` : `for the first time`;
        const before = poll.held || poll.from || poll.stack;
        add(poll.s, 3, `The loop polls ${NOW(task)} ${again}: send(None). It runs for ${time(poll.e - poll.s)}.` + (poll.e - poll.s > 2e7 ? " Meanwhile nobody else on this loop can." : ""), (at) => {
          for (const [id, where] of at.tasks) if (where === "running") at.tasks.set(id, "ready");
          at.loop = null;
          at.tasks.set(task.id, "running");
          at.why.delete(task.id);
        }, { task, stack: before });
        const wait = task.awaits.find((one) => one.s === poll.e);
        if (poll.how === "suspended") {
          const kind = wait ? waitOf(wait.stack) : "future";
          const where = wait && place(wait.stack);
          if (kind === "yield" && wait && wait.ready !== null && wait.ready - wait.s < 2e4) {
            add(poll.e, 6, `${cap(NOW(task))} gives way (a bare yield): back into the ready queue, behind the others.`, (at) => { at.tasks.set(task.id, "ready"); }, { task, stack: poll.stack });
          } else {
            add(poll.e, 6, `${cap(NOW(task))} awaits ${WAITS[kind]}` + (where ? ` at ${short(where)}` : "") + `: not there yet, the poll returns “pending”. The task is parked on the future, and the loop is free for others.`, (at) => { at.tasks.set(task.id, "parked"); at.why.set(task.id, wait); }, { task, stack: poll.stack });
          }
        } else if (poll.how !== "running") {
          const how = { returned: "returns: the task is done", raised: "raises: the task is done, and carries the exception", cancelled: "is cancelled: CancelledError was raised at its await" }[poll.how] || "ends";
          add(poll.e, 6, `${cap(NOW(task))} ${how}.` + (root ? "" : " Whoever awaits it will be woken."), (at) => { at.tasks.set(task.id, "done"); at.why.delete(task.id); }, { task, stack: poll.from });
        }
      });
      for (const wait of task.awaits) {
        if (wait.ready === null || (waitOf(wait.stack) === "yield" && wait.ready - wait.s < 2e4)) continue;
        const who = wakerText(request, wait), late = wait.late > 1e6 ? ` Others held the loop for ${wait.exact ? "" : "up to "}${time(wait.late)} of the ${time(wait.ready - wait.s)} that it was parked.` : "";
        add(wait.ready, 4, wait.waker === "cancel" ? `${cap(NOW(task))} is cancelled: it is woken to be told so.` : `Wake: ${who} completes the future. Its done-callback, the waker, calls call_soon: ${NOW(task)} is in the ready queue.${late}`, (at) => { if (at.tasks.get(task.id) !== "running") at.tasks.set(task.id, "ready"); at.why.delete(task.id); }, { task, stack: wait.stack, waker: wait });
      }
    }
    for (const [submitted, s, e, name, kind, task] of request.threads) {
      const what = kind === "wsgi" || kind === "handler" ? "The handler" : "The function";
      if (s - submitted > 2e5) add(submitted, 7, `${what} is handed to the threads, and waits ${time(s - submitted)} for a free one.`, (at) => { at.threads.set(name, "waits"); });
      add(s, 7, `${what} runs in ${name}` + (e !== null ? ` for ${time(e - s)}` : "") + `. The loop is not held.`, (at) => { at.threads.set(name, "runs"); });
      if (e !== null) add(e, 3.5, `${name} is done, and wakes the loop (call_soon_threadsafe).`, (at) => { at.threads.delete(name); });
    }
    for (const [due, late, number] of request.timers) {
      const task = request.tasks.find((one) => one.id === number);
      if (!task || late < LATE) continue;
      const held = others(request.lane, request.at + due, request.at + due + late, request.index).sort((a, b) => b.e - b.s - (a.e - a.s))[0];
      const where = held && place(held.stack);
      const why = held ? ` The loop is inside ${called(held)}${where ? ` (${short(where)})` : ""}: nobody looks.` : "";
      add(due, 6.3, `The timer that ${NOW(task)} is parked on is due.${why} It fires ${time(late)} late.`, (at) => { at.loop = held || null; }, { task, stack: held ? held.stack : 0, foreign: !!held });
    }
    for (const pause of lane.gc) {
      if (pause.s >= request.at && pause.s <= request.at + request.until) add(pause.s - request.at, 8, `The garbage collector stops everything for ${time(pause.e - pause.s)}.`);
    }
    for (const [s, e] of request.drains) add(s, 8, `The socket is full: the client does not take the answer, for ${time(e - s)}.`);
    for (const [t, text] of request.marks) add(t, 8, `Mark: ${text}`);
    if (ph.response !== null) add(ph.response, 6.5, `The head of the answer leaves: status ${request.status || "?"}.`);
    if (ph.end !== null) add(ph.end, 9, `The request is over: ${time(request.n.total)} in all, of which its own code ran ${time(request.n.busy)}.`, (at) => { at.loop = null; });
    found.sort((a, b) => a.t - b.t || a.order - b.order);
    request.steps = found.length ? found : [{ t: 0, says: "Nothing was recorded of its steps.", change: () => {} }];
    return request.steps;
  }
  /** The same events as a list: what a screen reader has instead of the picture. */
  function drawStory(request, most = 40) {
    const all = steps(request);
    const rows = all.slice(0, most).map((one, index) => node("li", null,
      node("button", { type: "button", class: "quiet", onclick: () => { stopPlaying(); setStep(index); } }, node("span", { class: "when" }, time(one.t)), node("span", null, one.says))));
    if (all.length > most) rows.push(node("li", null, node("button", { type: "button", class: "link", onclick: () => drawStory(request, most * 10) }, `and ${plural(all.length - most, "event")} more`)));
    $("story").replaceChildren(...rows);
    $("story-count").textContent = plural(all.length, "event");
    markStory();
  }
  function markStory() {
    [...$("story").children].forEach((row, index) => {
      if (index === shown.step) row.setAttribute("aria-current", "step"); else row.removeAttribute("aria-current");
    });
  }
  const cap = (text) => text[0].toUpperCase() + text.slice(1);
  function stateAt(request, number) {
    const at = { tasks: new Map(), why: new Map(), threads: new Map(), loop: null };
    const all = steps(request);
    for (let index = 0; index <= number; index++) all[index].change(at);
    return at;
  }

  const playing = { timer: 0 };
  function setStep(number) {
    const all = steps(shown.request);
    shown.step = clamp(number, 0, all.length - 1);
    drawPlayer();
    markStory();
    const { task, t } = all[shown.step];
    if (task && task.row) {  // what is told of is what is chosen
      const there = task.row.slices.filter((slice) => slice.s <= t && t <= slice.e);
      if (there.length) pick(there[there.length - 1]);
    }
    movePlayhead();
    drawLanes();
    remember();
  }
  function stopPlaying() {
    clearInterval(playing.timer);
    playing.timer = 0;
    $("player-play").textContent = "▶";
    $("player-play").setAttribute("aria-label", "Play");
  }
  function togglePlaying() {
    if (playing.timer) { stopPlaying(); return; }
    if (shown.step >= steps(shown.request).length - 1) setStep(0);
    $("player-play").textContent = "❚❚";
    $("player-play").setAttribute("aria-label", "Pause");
    playing.timer = setInterval(() => {
      if (shown.step >= steps(shown.request).length - 1) stopPlaying(); else setStep(shown.step + 1);
    }, 1500);
  }
  function toggleStepping() {
    if (!shown.request) return;
    stopPlaying();
    if (shown.step >= 0) { shown.step = -1; drawPlayer(); markStory(); movePlayhead(); drawLanes(); remember(); }
    else { setStep(0); $("player").scrollIntoView({ block: "nearest", behavior: motion() }); }
  }
  const tokens = new Map();
  function drawPlayer() {
    const on = shown.step >= 0, request = shown.request;
    $("player").hidden = !on;
    $("figures").hidden = on;
    $("step").setAttribute("aria-pressed", String(on));
    $("step").textContent = on ? "Close" : "Step";
    if (!on) return;
    const all = steps(request), now = all[shown.step], at = stateAt(request, shown.step);
    $("player-slider").max = all.length - 1;
    $("player-slider").value = shown.step;
    $("player-number").textContent = `${shown.step + 1} / ${all.length}  ·  ${time(now.t)}`;
    $("player-says").textContent = now.says;
    const before = new Map([...tokens].map(([key, element]) => [key, element.isConnected ? element.getBoundingClientRect() : null]));
    const places = { ready: [], running: [], parked: [], done: [] };
    const token = (key, name, note, where, mark) => {
      let element = tokens.get(key);
      if (!element) tokens.set(key, element = node("div", { class: "token" }, node("b"), node("span")));
      element.className = `token ${where}${mark ? " " + mark : ""}`;
      element.firstChild.textContent = name;
      element.lastChild.textContent = note;
      places[where].push(element);
      return element;
    };
    for (const task of request.tasks) {
      const where = at.tasks.get(task.id);
      if (!where) continue;
      const wait = at.why.get(task.id), spot = wait && place(wait.stack);
      const note = wait ? `${waitOf(wait.stack)}${spot ? ` · ${short(spot)}` : ""}` : "";
      token(`${request.index}/${task.id}`, `${taskName(task)} ${task.id}`, note, where, now.task === task ? "fresh" : "");
    }
    if (at.loop && now.t < at.loop.e - request.at) {
      const spot = place(at.loop.stack);
      token(`loop/${called(at.loop)}`, called(at.loop), spot ? short(spot) : "", "running", "foreign");
    }
    for (const [name, what] of at.threads) token(`thread/${name}`, name, what === "runs" ? "a thread runs" : "waits for a thread", "parked", "in-thread");
    for (const [where, elements] of Object.entries(places)) $(`box-${where}`).replaceChildren(...elements);
    for (const [key, element] of tokens) {
      const from = before.get(key);
      if (!element.isConnected) { tokens.delete(key); continue; }
      if (still()) continue;
      const to = element.getBoundingClientRect();
      if (!from) element.animate([{ opacity: 0, transform: "scale(0.8)" }, { opacity: 1, transform: "none" }], { duration: 180 });
      else if (Math.abs(from.x - to.x) + Math.abs(from.y - to.y) > 2) element.animate([{ transform: `translate(${from.x - to.x}px, ${from.y - to.y}px)` }, { transform: "none" }], { duration: 380, easing: "cubic-bezier(.2,.7,.2,1)" });
    }
    const spot = place(now.stack), out = $("player-source");
    if (!spot) { out.replaceChildren(node("p", { class: "hint" }, "The server's own work: no line of Python.")); return; }
    const lines = source(spot, 2);
    out.replaceChildren(node("p", { class: "at" }, node("b", null, spot.name), " ", node("bdi", null, `${spot.file}:${spot.line}`), now.foreign ? node("span", { class: "hint" }, "  (the neighbour)") : null), lines || "");
  }
  function movePlayhead() {
    const line = document.getElementById("playhead");
    if (!line || !geometry) return;
    if (shown.step < 0) { line.setAttribute("visibility", "hidden"); return; }
    const x = geometry.x(steps(shown.request)[shown.step].t);
    const inside = x >= geometry.gutter - 1 && x <= geometry.gutter + geometry.wide + 1;
    line.setAttribute("visibility", inside ? "visible" : "hidden");
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  }
  $("step").addEventListener("click", toggleStepping);
  $("player-first").addEventListener("click", () => { stopPlaying(); setStep(0); });
  $("player-back").addEventListener("click", () => { stopPlaying(); setStep(shown.step - 1); });
  $("player-next").addEventListener("click", () => { stopPlaying(); setStep(shown.step + 1); });
  $("player-play").addEventListener("click", togglePlaying);
  $("player-slider").addEventListener("input", () => { stopPlaying(); setStep(+$("player-slider").value); });
  addEventListener("keydown", (event) => {
    const typing = event.target.matches && event.target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (shown.step >= 0) {
      const last = steps(shown.request).length - 1;
      const there = { ArrowRight: shown.step + 1, ArrowLeft: shown.step - 1, Home: 0, End: last }[event.key];
      if (there !== undefined) { stopPlaying(); setStep(there); event.preventDefault(); return; }
      if (event.key === " " && !event.target.matches("button, summary")) { togglePlaying(); event.preventDefault(); return; }
      if (event.key === "Escape") { toggleStepping(); return; }
    }
    if (event.key === "s") toggleStepping();
    else if (event.key === "/") { $("search").focus(); event.preventDefault(); }
    else if (event.key === "?" || event.key === "w") toggleWords();
  });

  // ------------------------------------------------------------------------------------------------------- words

  const VOCABULARY = [
    ["coroutine", "async fn’s future", "Work that can stop at an await and go on later. It does nothing by itself: somebody must poll it."],
    ["asyncio.Task", "spawned task", "A coroutine that the loop drives, together with its waker."],
    ["one step: coro.send(None)", "Future::poll", "Run from where it stopped to the next await that must wait. In this page: a solid bar."],
    ["the step yields a future", "Poll::Pending", "Not done: the task is parked on that future. In this page: a thin line."],
    ["StopIteration, return", "Poll::Ready(value)", "Done, with a result."],
    ["asyncio.Future", "a leaf future", "What will be there later: a timer, bytes of a socket, a lock, a thread’s result."],
    ["done-callback: Task.__wakeup, by call_soon", "Waker::wake", "Told “the future is done”, it puts the task into the ready queue. In this page: an arrow."],
    ["loop._ready", "run queue", "Tasks that could run and wait for their turn. In this page: hatched."],
    ["event loop", "executor", "Takes the next task of the ready queue and polls it; one at a time in one thread."],
    ["selector, epoll, libuv", "reactor", "Asks the kernel which sockets and timers are due, and wakes those who wait for them."],
    ["create_task, TaskGroup, gather", "tokio::spawn, join!", "A task of its own, so that waits overlap."],
    ["asyncio.to_thread", "spawn_blocking", "For code that cannot await: a thread blocks, and the loop does not."],
    ["a step that does not return", "a poll that does not return", "Blocking: nobody else is polled. In this page: a long bar, and red in others’ rows."],
    ["Task.cancel()", "dropping the future", "Here the task is woken with CancelledError at its await; Rust just stops polling."],
  ];
  function toggleWords() {
    const open = $("words").hidden;
    $("words").hidden = !open;
    $("words-button").setAttribute("aria-expanded", String(open));
  }
  $("words-button").addEventListener("click", toggleWords);
  $("words-rows").replaceChildren(...VOCABULARY.map(([python, rust, text]) => node("tr", null, node("td", null, node("code", null, python)), node("td", null, node("code", null, rust)), node("td", null, text))));

  // ------------------------------------------------------------------------------------------------------- start

  const THEMES = ["auto", "light", "dark"];
  function setTheme(theme) {
    if (theme === "auto") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.setAttribute("data-theme", theme);
    $("theme").textContent = cap(theme);
    repaint();
  }
  function repaint() {
    readInk();
    drawLanes();
    drawList();
    if (shown.request) { drawRequest(); markSlice(); drawSlice(); }
  }
  $("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf($("theme").textContent.toLowerCase()) + 1) % 3]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  /** What the address asks for: "#w0-0001", "#w0-0001&step=5", "#slowest", "#last". */
  function fromAddress() {
    clearTimeout(remembering);
    const [name, ...options] = decodeURIComponent(location.hash.slice(1)).split("&");
    const bySize = (key) => REQUESTS.reduce((most, one) => (!most || KEYS[key](one) < KEYS[key](most) ? one : most), null);
    const worstOne = FINDINGS.flatMap((one) => one.requests).map((id) => BY_ID.get(id)).find(Boolean);
    const request = BY_ID.get(name) || (name === "last" ? REQUESTS[REQUESTS.length - 1] : null) || (name === "slowest" ? bySize("total") : null) || BY_ID.get(DATA.select) || worstOne || bySize("total");
    if (!request) { drawFindings(); return; }
    choose(request, { quiet: true });
    drawList(true);
    for (const option of options) {
      const match = /^step=(\d+)$/.exec(option);
      if (match) setStep(+match[1] - 1);
    }
  }
  function start() {
    readInk();
    $("title").textContent = DATA.title;
    const lost = LANES.reduce((sum, lane) => sum + lane.lost, 0);
    const facts = [plural(LANES.length, "worker"), plural(REQUESTS.length, "request"), `${time(SPAN)} recorded`, DATA.python, DATA.taken];
    $("facts").replaceChildren(facts.filter(Boolean).join("  ·  "), lost ? node("span", { class: "lost", title: "The ring was full: the oldest events were overwritten" }, `${plural(lost, "event")} lost`) : "");
    $("footer").textContent = `fastserve ${DATA.version} · one file, nothing is loaded from elsewhere · keys: / search, s step, arrows, w words`;
    if (DATA.compact) document.body.classList.add("compact");
    for (const lane of LANES) {
      const share = lane.busy / Math.max(SPAN - Math.max(lane.since, 0), 1);
      lane.note = `${share < 0.1 ? (share * 100).toFixed(1) : Math.round(share * 100)}% running`;
    }
    canvas.setAttribute("aria-label", LANES.map((lane) => `worker ${lane.slot}: ${lane.note}, ${plural(lane.polls.length, "step")}, ${plural(lane.stalls.length, "stall")}`).join("; ") + ". The list below has the same requests.");
    fillFilters();
    drawBanner();
    filter();
    drawLanes();
    fromAddress();
    if (!shown.request) {
      $("step").disabled = true;
      $("request-title").textContent = "No request";
      box.replaceChildren(node("p", { class: "empty" }, "No request was recorded."));
      drawSlice();
    }
    let wide = 0;
    new ResizeObserver(() => {
      if (wide === document.body.clientWidth) return;
      wide = document.body.clientWidth;
      hideTip();
      drawLanes();
      drawList();
      if (shown.request) drawWaterfall();
    }).observe(document.body);
    addEventListener("hashchange", fromAddress);
    document.documentElement.setAttribute("data-drawn", "yes");
  }
  start();
})();
