// What htmx does not do: relative times, the refresh timer, toasts, the dialog, row selection, keyboard shortcuts.
// Every page works without this file. The server checks everything.
"use strict";

(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const live = () => $("#live");

  const ROOT = document.body.dataset.root;  // the path of the public URL, such as /queue, or ""

  // --- cookies: time zone and preferences ---

  const YEAR = 365 * 86400;
  const SECURE = location.protocol === "https:" ? "; secure" : "";
  const keep = (name, value) => { document.cookie = `${name}=${value}; path=${ROOT || "/"}; max-age=${YEAR}; samesite=lax${SECURE}`; };
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && !document.cookie.split("; ").includes(`tz=${zone}`)) keep("tz", zone);

  // --- times: absolute in the HTML, made relative here ---

  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const DAY = 86400;
  const WEEK = 6 * DAY;  // after that, a weekday could be the wrong one
  const ZONE = document.body.dataset.zone === "utc" ? "UTC" : undefined;
  const CLOCK = new Intl.DateTimeFormat("en-GB", { weekday: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: ZONE });

  // "Sat 14:02", in UTC with its name
  function weekday(moment) {
    const { weekday: day, hour, minute } = Object.fromEntries(CLOCK.formatToParts(Date.parse(moment)).map(({ type, value }) => [type, value]));
    return `${day} ${hour}:${minute}${ZONE ? " UTC" : ""}`;
  }

  function spoken(seconds) {
    const [length, unit] = UNITS.find(([size]) => seconds >= size) || UNITS[3];
    return `${Math.floor(seconds / length)} ${unit}`;
  }

  function relative(element, now) {
    const away = (Date.parse(element.dateTime) - now) / 1000;
    const seconds = Math.floor(Math.abs(away));
    if (element.dataset.when === "for") return spoken(Math.max(0, Math.floor(-away)));
    if (element.dataset.when === "span") return `for ${spoken(Math.max(0, Math.floor(-away)))}`;
    if (element.dataset.when === "due" && away <= 0) return "any moment now";  // a worker promotes it
    if (seconds >= WEEK) return null;
    if (seconds >= DAY) return weekday(element.dateTime);
    if (seconds < 1) return "now";
    return away > 0 ? `in ${spoken(seconds)}` : `${spoken(seconds)} ago`;
  }

  // When the page is no longer refreshed, its clocks show the moment of the last refresh.
  const present = () => (stopped ? lastGood.getTime() : Date.now());

  function tellTimes(root = document, nearest = Infinity) {
    const now = present();
    for (const element of $$(".time-to-go", root)) tellTimeToGo(element, now);
    for (const element of $$("time[data-when]", root)) {
      if (Math.abs(Date.parse(element.dateTime) - now) > nearest) continue;
      const text = relative(element, now);
      if (text !== null && element.textContent !== text) element.textContent = text;
    }
  }

  // The bar of a running job: how far it is if it takes as long as usual.
  function tellTimeToGo(element, now) {
    const { since: start, usual, late } = element.dataset;
    const passed = Math.max(0, (now - Date.parse(start)) / 1000);
    const left = Math.ceil(usual - passed);
    const value = Math.min(passed / Math.max(usual, 0.001), 1);
    const bar = $("progress", element);
    if (bar.value !== value) bar.value = value;
    const isLate = passed > late && left < 0;
    element.classList.toggle("late", isLate);
    const text = left > 0 ? `About ${spoken(left)} left.` : isLate ? "Longer than 95 % of its runs." : "Longer than usual.";
    const told = $(".left", element);
    if (told.textContent !== text) told.textContent = text;
  }

  // --- the refresh timer: one `tick` event on the document ---

  let failures = 0;
  let since = 0;          // seconds since the last tick
  let lastGood = new Date();
  let stopped = false;    // signed out, or gone
  let gone = false;       // what the page shows is not there any more

  const clockTime = (date) => date.toTimeString().slice(0, 5);

  // From now on the page does not change; a bar says so.
  function stop(text, link) {
    if (stopped) return;
    stopped = true;
    tellTimes();
    const bar = document.createElement("div");
    bar.className = "warning";
    bar.id = "stopped";
    bar.setAttribute("role", "alert");
    const line = document.createElement("p");
    line.textContent = live() ? `${text} This page shows the state at ${clockTime(lastGood)}. ` : `${text} `;
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = link[0];
      anchor.textContent = link[1];
      line.append(anchor);
    }
    bar.append(line);
    $("header.top").append(bar);
  }

  const chosen = () => Number($("#tick")?.value || 0);
  const ticked = () => $$('#live input[name="id"]:checked');

  function selecting() {
    const selection = document.getSelection();
    if (!selection || selection.isCollapsed || !live()) return false;
    return selection.containsNode(live(), true) && !$("#output")?.contains(selection.anchorNode);
  }

  function typing() {
    const element = document.activeElement;
    return element && live()?.contains(element) && !element.closest("#output") && element.matches("input:not([type=checkbox]), textarea, select");
  }

  function whyWait() {
    if ($("dialog[open]")) return "a dialog is open";
    if (drag) return "you select a time range";
    if (ticked().length) return "rows are selected";
    if ($("tr.further")) return "long search results are shown";  // a refresh would start it again
    if (selecting()) return "text is selected";
    if (typing()) return "you are typing";
    return "";
  }

  function interval() {
    const seconds = chosen();
    if (!seconds) return 0;
    if (failures) return Math.min(2 ** failures, 60);
    return $("[data-fast]") || $("#tail[hx-get]") ? 1 : seconds;
  }

  // The pill in the header. `kind`: live, paused, late or off.
  function say(text, kind) {
    const pill = $("#pill");
    if (!pill || (pill.dataset.kind === kind && pill.title === text)) return;  // do not touch the page without need
    pill.hidden = false;
    pill.dataset.kind = kind;
    pill.title = text;
    $("#fresh").textContent = text;
  }

  function sayState(wait) {
    if (gone) say("No longer exists", "late");
    else if (stopped) say("Signed out", "late");
    else if (failures) say(`Not refreshed since ${clockTime(lastGood)}`, "late");
    else if (!chosen()) say("Off", "off");
    else if (wait) say(`Paused while ${wait}`, "paused");
    else say("Live", "live");
  }

  function tick() {
    since = 0;
    document.dispatchEvent(new CustomEvent("tick"));
  }

  function everySecond() {
    tellTimes(document, 90_000);
    if (document.hidden || !live()) return;
    const wait = whyWait();
    since += 1;
    sayState(wait);
    if (stopped) return;
    const every = interval();
    if (every && since >= every && !wait) tick();
  }

  setInterval(everySecond, 1000);
  setInterval(tellTimes, 10_000);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && chosen() && !stopped && !gone && !whyWait()) tick();
  });

  $("#tick")?.addEventListener("change", (event) => {
    keep("tick", event.target.value);
    event.target.blur();
    sayState(whyWait());
    if (chosen()) tick();
  });

  // --- htmx: ETags, relative times before a morph, errors ---

  let etag = live()?.dataset.etag;
  const isLive = (ctx) => ctx?.sourceElement === live();

  document.addEventListener("htmx:config:request", ({ detail: { ctx } }) => {
    if (isLive(ctx) && etag) ctx.request.headers["If-None-Match"] = etag;
  });

  document.addEventListener("htmx:after:request", ({ detail: { ctx } }) => {
    if (!isLive(ctx)) return;
    const { status } = ctx.response;
    if (status < 400) {
      failures = 0;
      lastGood = new Date();
      if (status === 200) etag = ctx.response.headers.get("ETag");
    } else {
      failures += 1;
    }
  });

  document.addEventListener("htmx:response:error", ({ detail: { ctx } }) => {
    if (ctx.response.status === 401) stop("You are signed out.", [`${ROOT}/login?next=${encodeURIComponent(location.pathname + location.search)}`, "Sign in"]);
    if (ctx.response.status === 404 && isLive(ctx)) { gone = true; stop("This no longer exists. It was discarded or deleted."); }
  });

  document.addEventListener("htmx:error", ({ detail: { ctx } }) => {
    if (ctx && isLive(ctx)) failures += 1;
    else if (ctx) toast("No response from the console. Is it running?");
  });

  function focusHeading() {
    const heading = $("h1");
    if (!heading) return;
    heading.tabIndex = -1;
    heading.focus();
  }

  let focused = null;     // the focused control and its row before a refresh

  document.addEventListener("htmx:before:swap", ({ detail: { tasks } }) => {
    for (const task of tasks || []) tellTimes(task.fragment);
    const row = document.activeElement?.closest?.("#live tr[id]");
    const control = document.activeElement?.closest?.("a, button, input");
    focused = row && control ? { row, index: row.rowIndex, control: $$("a, button, input", row).indexOf(control) } : null;
  });

  document.addEventListener("htmx:after:swap", () => {
    if (focused && !focused.row.isConnected) {
      const rows = $$("#live tbody tr");
      const next = rows[Math.min(focused.index - 1, rows.length - 1)];
      const target = next && $$("a, button, input", next)[focused.control];
      if (target) target.focus({ preventScroll: true });
      else focusHeading();
    }
    focused = null;
    takeFirst();
    showTicked();
    showTitle();
    showNewest();
    wrap();
    trim();
    follow();
    hideToastsLater();
  });

  // --- toasts and the dialog ---

  function toast(text) {
    const holder = $("#toasts");
    const known = $$(".toast p", holder).some((one) => one.textContent === text);
    if (!holder || known) return;
    const element = document.createElement("div");
    element.className = "toast error";
    const line = document.createElement("p");
    line.textContent = text;
    element.append(line);
    holder.append(element);
    hideToastsLater();
  }

  function hideToastsLater() {
    for (const element of $$(".toast:not([data-seen])")) {
      element.dataset.seen = "";
      const life = $(".undo", element) || element.classList.contains("error") ? 15_000 : 8000;
      const leave = () => (element.matches(":hover, :focus-within") ? setTimeout(leave, 2000) : element.remove());
      setTimeout(leave, life);
    }
  }

  document.addEventListener("ask", () => {
    const dialog = $("#dialog");
    $("#palette")?.close();
    if (!dialog.open) dialog.showModal();
    $(".buttons [data-close]", dialog)?.focus();
  });

  document.addEventListener("settled", ({ detail }) => {
    for (const dialog of $$("#dialog, #palette")) dialog.close();
    $(".toast.spent")?.remove();
    if (detail.refresh) setTimeout(tick);  // after htmx has released the region
    for (const box of $$('input[name="id"]:checked, #all, #tick-all')) box.checked = false;
    if ($("#bulk")?.contains(document.activeElement)) focusHeading();  // the bar disappears: keep the focus on the page
    showTicked();
  });

  // A person signed in again in another tab: the forms of this page get the new token.
  document.addEventListener("renewed", ({ detail }) => {
    for (const field of $$('input[name="csrf_token"]')) field.value = detail.token;
    stopped = false;
  });

  document.addEventListener("click", (event) => {
    const closer = event.target.closest("[data-close]");
    event.target.closest(".undo")?.closest(".toast").classList.add("spent");  // removed when the undo is done
    if (closer) (closer.closest(".toast") ? closer.closest(".toast").remove() : closer.closest("dialog")?.close());
    if (event.target.matches("dialog")) event.target.close();  // the backdrop
    for (const menu of $$("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });

  // --- a filter select submits its form; without this file the form has a button ---

  document.addEventListener("change", ({ target }) => {
    if (target.matches?.("select[data-submit]")) target.form.requestSubmit();
  });

  // --- row selection ---

  let lastBox = null;

  function showTicked() {
    const bar = $("#bulk");
    if (!bar) return;
    const boxes = $$('#live input[name="id"]');
    const number = boxes.filter((box) => box.checked).length;
    const full = boxes.length > 0 && number === boxes.length;
    const all = $("#all");
    if (all && !full) all.checked = false;
    const every = $("#tick-all");
    if (every) {
      every.checked = full;
      every.indeterminate = number > 0 && !full;
    }
    bar.classList.toggle("on", number > 0);
    bar.classList.toggle("full", full);
    const text = all?.checked ? "All matching jobs" : `${number} selected`;
    if ($("#ticked").textContent !== text) $("#ticked").textContent = text;
  }

  document.addEventListener("change", ({ target }) => {
    if (target.id === "tick-all") for (const box of $$('#live input[name="id"]')) box.checked = target.checked;
    if (target.matches?.('input[name="id"], #tick-all, #all')) showTicked();
  });

  document.addEventListener("click", (event) => {
    const box = event.target.closest?.('#live input[name="id"]');
    if (!box) return;
    const boxes = $$('#live input[name="id"]');
    if (event.shiftKey && lastBox?.isConnected) {
      const [from, to] = [boxes.indexOf(lastBox), boxes.indexOf(box)].sort((a, b) => a - b);
      for (const one of boxes.slice(from, to + 1)) one.checked = box.checked;
      showTicked();
    }
    lastBox = box;
  });

  function untick() {
    for (const box of $$('#live input[name="id"]')) box.checked = false;
    showTicked();
  }

  $("#untick")?.addEventListener("click", untick);
  $("#tick-page")?.addEventListener("click", () => {
    for (const box of $$('#live input[name="id"]')) box.checked = true;
    showTicked();
  });

  // --- output: follow, wrap, line links, the next attempt ---

  const MOST_LINES = 6000;  // kept in the page of a long job; earlier lines are on another page
  const LINE = /^#([LB][0-9]+)$/;

  function follow() {
    const pane = $("#pane");
    if (pane && $("#follow")?.checked) pane.scrollTop = pane.scrollHeight;
  }

  function wrap() {
    $("#pane")?.classList.toggle("wrapped", Boolean($("#wrap")?.checked));
  }

  function trim() {
    const out = $("#out");
    if (!out || out.childElementCount <= MOST_LINES || !$("#follow")?.checked) return;
    while (out.childElementCount > MOST_LINES - 1000) out.firstElementChild.remove();
    for (const before of $$("#pane .earlier")) before.remove();
    const link = document.createElement("a");
    link.className = "button small";
    link.textContent = "Earlier";
    link.href = `?attempt=${$("#output").dataset.shown}&to=${$("[id]", out)?.id}#output`;
    $("#earlier").replaceChildren(link);
  }

  // A link to a line outside this page loads the page with that line.
  function findLine() {
    const line = LINE.exec(location.hash)?.[1];
    if (!line || !$("#pane")) return;
    const box = $("#follow");
    if (box) box.checked = false;
    const asked = new URLSearchParams(location.search);
    if (document.getElementById(line) || asked.has("line")) return;
    location.replace(`?attempt=${$("#output").dataset.shown}&line=${line}#${line}`);
  }

  function nameLine(event, link) {
    event.preventDefault();
    history.replaceState(null, "", link.getAttribute("href"));
    for (const one of $$("#pane .marked")) one.classList.remove("marked");
    link.parentElement.classList.add("marked");
    const box = $("#follow");
    if (box) box.checked = false;
  }

  // The title and the icon of the tab follow the job's state.
  function showTitle() {
    const head = $("#live [data-title]");
    if (!head) return;
    if (document.title !== head.dataset.title) document.title = head.dataset.title;
    const link = $('link[rel="icon"]');
    if (link.getAttribute("href") !== head.dataset.icon) link.href = head.dataset.icon;
  }

  // The output of a failed attempt opens at its end, where the error is.
  function showEnd() {
    const pane = $("#pane[data-at-end]");
    if (pane && !LINE.test(location.hash)) pane.scrollTop = pane.scrollHeight;
  }

  function fold(button) {
    const folded = $("#output").classList.toggle("folded");
    button.setAttribute("aria-expanded", String(!folded));
    button.setAttribute("aria-label", folded ? "Show the output" : "Collapse the output");
  }

  // A new attempt has started: show its output, unless the user is reading the old one.
  function showNewest() {
    const card = $("#output[data-newest]");
    const number = Number($("#live [data-attempts]")?.dataset.attempts || 0);
    if (!card || number <= Number(card.dataset.shown || 0)) return;
    const pane = $("#pane");
    const read = pane && pane.scrollHeight - pane.scrollTop - pane.clientHeight > 40;
    if (read || card.contains(document.activeElement) || card.contains(getSelection().anchorNode)) return;
    htmx.ajax("GET", card.dataset.newest, { target: "#output", swap: "outerHTML" });
  }

  document.addEventListener("change", ({ target }) => {
    if (target.id === "wrap") wrap();
    if (target.id === "follow") follow();
  });
  document.addEventListener("wheel", ({ target, deltaY }) => {
    const box = $("#follow");
    if (box && deltaY < 0 && target.closest?.("#pane")) box.checked = false;  // the user scrolls up to read
  }, { passive: true });
  document.addEventListener("click", (event) => {
    const folder = event.target.closest(".fold");
    if (folder) fold(folder);
    const link = event.target.closest("#pane a[data-n]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) nameLine(event, link);
  });

  // --- copy a secret, show a password, toggle labels ---

  async function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    getSelection().selectAllChildren(source);  // so that Ctrl-C works if the two below fail
    let copied = true;
    try {
      await navigator.clipboard.writeText(source.textContent);  // only with HTTPS or on localhost
    } catch {
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Press Ctrl-C";
  }

  function show(button) {
    const field = document.getElementById(button.dataset.show);
    const shown = field.type === "password";
    field.type = shown ? "text" : "password";
    button.textContent = shown ? "Hide" : "Show";
    button.setAttribute("aria-pressed", String(shown));
  }

  // The words of a field, separated by commas or spaces.
  const wordsIn = (field) => field.value.split(/[\s,]+/).filter(Boolean);

  function tellPressed(field) {
    const words = wordsIn(field);
    for (const button of $$(`[data-in="${field.id}"]`)) {
      button.setAttribute("aria-pressed", String(words.includes(button.dataset.toggle)));
    }
  }

  function toggle(button) {
    const field = document.getElementById(button.dataset.in);
    const word = button.dataset.toggle;
    const words = wordsIn(field);
    field.value = (words.includes(word) ? words.filter((one) => one !== word) : [...words, word]).join(", ");
    tellPressed(field);
    field.dispatchEvent(new Event("change", { bubbles: true }));
  }

  document.addEventListener("input", ({ target }) => { if (target.id) tellPressed(target); });

  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-copy], [data-show], [data-toggle]");
    if (button?.dataset.copy) copy(button);
    else if (button?.dataset.toggle) toggle(button);
    else if (button) show(button);
  });

  // --- lists below a field: results of the palette (Ctrl-K), suggestions of the search box ---

  const itemsOf = (field) => $$("a, button", document.getElementById(field.dataset.list));

  function openPalette() {
    const palette = $("#palette");
    if (!palette || $("dialog[open]")) return;
    palette.showModal();
    const field = $("#goto");
    field.select();
    field.dispatchEvent(new Event("open"));
  }

  // htmx reads the page a moment after this file has run. Before that it does not hear that the palette opened.
  document.addEventListener("htmx:after:process", ({ target }) => {
    if (target === document.body && $("#palette[open]")) $("#goto").dispatchEvent(new Event("open"));
  });

  let entered = null;     // a field in which Enter was pressed: its first item is taken once the items are for its text

  function takeFirst() {
    const list = entered && document.getElementById(entered.dataset.list);
    if (!list || $("[data-for]", list)?.dataset.for !== entered.value.trim()) return;
    const first = itemsOf(entered)[0];
    entered = null;
    first?.click();
  }

  // Arrows move between the field and the items, Enter in the field takes the first one, other keys go to the field.
  function moveInList(event) {
    const field = event.target.closest("[data-list]") || $$("[data-list]").find((one) => document.getElementById(one.dataset.list)?.contains(event.target));
    if (!field || event.ctrlKey || event.metaKey || event.altKey) return;
    entered = null;
    const items = itemsOf(field);
    const at = items.indexOf(event.target);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const next = at + (event.key === "ArrowDown" ? 1 : -1);
      if (next === -2 || !items.length) return;
      (next === -1 ? field : items[Math.min(next, items.length - 1)]).focus();
      event.preventDefault();
    } else if (event.key === "Enter" && at === -1 && "first" in field.dataset) {
      entered = field;
      takeFirst();
      event.preventDefault();
    } else if (event.key === "Escape" && !("first" in field.dataset) && items.length) {
      document.getElementById(field.dataset.list).replaceChildren();
      field.focus();
      event.preventDefault();  // the browser would clear the field
    } else if (at !== -1 && (event.key.length === 1 && event.key !== " " || event.key === "Backspace")) {
      field.focus();
    }
  }

  document.addEventListener("keydown", moveInList);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-palette]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) { event.preventDefault(); openPalette(); }
    const choice = event.target.closest("[data-fill]");
    if (!choice) return;
    const field = document.querySelector(`[data-list="${choice.closest("[id]").id}"]`);
    field.value = choice.dataset.fill;
    field.focus();
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });

  // --- charts: a tooltip, and a drag across one chooses the time that the page shows ---

  const CLICK = 6;        // pixels; a shorter drag is a click
  let drag = null;        // the chart, and where the drag began and is, in pixels from its left edge
  let dragged = false;    // the click that ends a drag opens no link

  // The browser would show the title too, and late.
  function tipOf(mark) {
    const title = $("title", mark);
    if (title) {
      mark.dataset.tip = title.textContent;
      title.remove();
    }
    return mark.dataset.tip;
  }

  function showTip(event) {
    const mark = event.pointerType === "touch" || drag?.rect ? null : event.target.closest?.(".drawn :is(a, .marker)");
    const text = mark && tipOf(mark);
    let tip = $("#tip");
    if (!text) return tip?.remove();
    if (!tip) {
      tip = document.createElement("div");
      tip.id = "tip";
      document.body.append(tip);
    }
    if (tip.textContent !== text) tip.textContent = text;
    const { width, height } = tip.getBoundingClientRect();
    const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, event.clientY - height - 10)}px`;
  }

  function moveDrag(event) {
    const { chart, from } = drag;
    const box = chart.getBoundingClientRect();
    drag.to = Math.max(0, Math.min(box.width, event.clientX - box.left));
    if (!drag.rect && Math.abs(drag.to - from) < CLICK) return;
    if (!drag.rect) {
      drag.rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      drag.rect.setAttribute("class", "chosen");
      drag.rect.setAttribute("height", "180");
      chart.append(drag.rect);
      chart.setPointerCapture(event.pointerId);
    }
    drag.rect.setAttribute("x", Math.min(from, drag.to));
    drag.rect.setAttribute("width", Math.abs(drag.to - from));
  }

  function endDrag(opens) {
    const { chart, rect, from, to } = drag;
    drag = null;
    if (!rect) return;
    rect.remove();
    dragged = true;
    setTimeout(() => { dragged = false; });
    if (!opens) return;
    const [start, end, step] = ["start", "end", "step"].map((name) => Number(chart.dataset[name]));
    const at = (place) => start + (place / chart.getBoundingClientRect().width) * (end - start);
    const url = new URL(chart.dataset.window, location.href);
    const first = Math.floor(at(Math.min(from, to)) / step) * step;
    url.searchParams.set("from", new Date(first).toISOString());
    url.searchParams.set("to", new Date(Math.max(first + step, Math.ceil(at(Math.max(from, to)) / step) * step)).toISOString());
    location.href = url;
  }

  document.addEventListener("pointerdown", (event) => {
    const chart = event.button === 0 && event.target.closest?.(".drawn[data-window]");
    if (chart) drag = { chart, from: event.clientX - chart.getBoundingClientRect().left };
  });
  document.addEventListener("pointermove", (event) => { if (drag) moveDrag(event); showTip(event); });
  document.addEventListener("pointerup", () => { if (drag) endDrag(true); });
  document.addEventListener("pointercancel", () => { if (drag) endDrag(false); });
  document.addEventListener("keydown", (event) => { if (drag && event.key === "Escape") endDrag(false); });
  document.addEventListener("dragstart", (event) => { if (event.target.closest?.(".drawn")) event.preventDefault(); });
  document.addEventListener("click", (event) => { if (dragged) event.preventDefault(); }, true);

  // --- keyboard shortcuts ---

  const GO = { o: "/", j: "/jobs", d: "/dead", s: "/schedules", w: "/workers", q: "/queues", a: "/activity", c: "/config" };
  let awaited = 0;        // deadline for the letter after `g`

  function moveRow(step) {
    const links = $$("#live tr .what");
    if (!links.length) return;
    const row = document.activeElement?.closest?.("tr");
    const now = links.findIndex((link) => link.closest("tr") === row);
    links[Math.max(0, Math.min(links.length - 1, now + step))]?.focus();
  }

  const KEYS = {
    "/": () => { const field = $("#search, #find, #goto-page"); if (field) field.focus(); else openPalette(); },
    n: () => { const link = $(`a[href="${ROOT}/submit"]`); if (link) link.click(); },
    j: () => moveRow(1),
    k: () => moveRow(-1),
    x: () => $('.tick input', document.activeElement?.closest?.("tr") || document.createElement("i"))?.click(),
    "?": () => $("#keys")?.showModal(),
    g: () => { awaited = Date.now() + 1500; },
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const form = event.target.form;
      if (form?.matches("[data-ctrl-enter]")) form.requestSubmit();
      return;
    }
    if (event.key === "Escape") {
      const menu = $("details.menu[open]");
      if (menu) { menu.open = false; $("summary", menu).focus(); }
      return;
    }
    if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      openPalette();
      return;
    }
    const busy = event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]");
    if (busy || document.body.dataset.keys === "off") return;
    if (event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]")) return;
    const page = Date.now() < awaited && GO[event.key];
    awaited = 0;
    if (page) location.href = ROOT + page;
    else if (KEYS[event.key]) { KEYS[event.key](); event.preventDefault(); }
  });

  // --- a text area grows with its text, where the stylesheet cannot do it ---

  if (!CSS.supports("field-sizing", "content")) {
    document.addEventListener("input", ({ target }) => {
      if (target.matches?.("textarea.grows")) target.rows = Math.max(3, Math.min(30, target.value.split("\n").length));
    });
  }

  // --- start ---

  $("#theme")?.addEventListener("change", ({ target }) => { document.documentElement.dataset.theme = target.value; });
  tellTimes();
  if (live()) sayState(whyWait());
  showTicked();
  wrap();
  findLine();
  follow();
  showEnd();
  hideToastsLater();
})();
