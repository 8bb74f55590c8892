"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const state = { fs: 0, step: 0, path: null, tab: "diff" };

  // Text is only ever set as text: no name and no content can become markup.
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  // Bytes that are no UTF-8 arrive as lone surrogates U+DC80..U+DCFF, and control characters as themselves.
  const shown = (name) => name.replace(/[\udc80-\udcff]|[\u0000-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g, (c) => {
    const code = c.charCodeAt(0);
    return "\\x" + (code >= 0xdc80 && code <= 0xdcff ? code - 0xdc00 : code).toString(16).padStart(2, "0");
  });
  const size = (bytes) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (bytes >= 1024 && unit < 4) { bytes /= 1024; unit++; }
    return (unit ? bytes.toFixed(1) : bytes) + " " + units[unit];
  };

  // ---- the past: each snapshot's files, replayed from the differences, once for a filesystem
  const replayed = new Map();
  const states = (index) => {
    if (!replayed.has(index)) {
      let files = new Map();
      replayed.set(index, data.filesystems[index].snapshots.map((step) => {
        files = new Map(files);
        for (const path of step.gone) files.delete(path);
        for (const path of Object.keys(step.set)) files.set(path, step.set[path]);
        return files;
      }));
    }
    return replayed.get(index);
  };
  const filesAt = (step) => (step < 0 ? new Map() : states(state.fs)[step]);
  const changesAt = (step) => {
    const before = filesAt(step - 1), now = filesAt(step), changes = new Map();
    for (const [path, line] of now) {
      if (!before.has(path)) changes.set(path, "added");
      else if (JSON.stringify(before.get(path)) !== JSON.stringify(line)) changes.set(path, "changed");
    }
    for (const path of before.keys()) if (!now.has(path)) changes.set(path, "gone");
    return changes;
  };
  const SIGNS = { added: "+", gone: "−", changed: "~" };
  const content = (line) => (line && line[3] ? data.blobs[line[3]] : null);

  // ---- the difference of two texts, by lines: the ends that are equal go first, the rest by LCS
  const lines = (text) => (text === "" ? [] : text.replace(/\n$/, "").split("\n"));
  const difference = (old, fresh) => {
    let head = 0, tail = 0;
    while (head < old.length && head < fresh.length && old[head] === fresh[head]) head++;
    while (tail < old.length - head && tail < fresh.length - head &&
           old[old.length - 1 - tail] === fresh[fresh.length - 1 - tail]) tail++;
    const a = old.slice(head, old.length - tail), b = fresh.slice(head, fresh.length - tail), out = [];
    for (let i = 0; i < head; i++) out.push([" ", old[i]]);
    if (a.length * b.length > 4e6) {
      for (const text of a) out.push(["-", text]);
      for (const text of b) out.push(["+", text]);
    } else {
      const width = b.length + 1, table = new Uint32Array((a.length + 1) * width);
      for (let i = a.length - 1; i >= 0; i--)
        for (let j = b.length - 1; j >= 0; j--)
          table[i * width + j] = a[i] === b[j] ? table[(i + 1) * width + j + 1] + 1
            : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
      let i = 0, j = 0;
      while (i < a.length || j < b.length) {
        if (i < a.length && j < b.length && a[i] === b[j]) { out.push([" ", a[i]]); i++; j++; }
        else if (i < a.length && (j >= b.length || table[(i + 1) * width + j] >= table[i * width + j + 1])) out.push(["-", a[i++]]);
        else out.push(["+", b[j++]]);
      }
    }
    for (let i = old.length - tail; i < old.length; i++) out.push([" ", old[i]]);
    return out;
  };

  // ---- the view of one file
  const line = (number, sign, text) => {
    const row = make("div", "l" + (sign === "+" ? " add" : sign === "-" ? " del" : ""));
    row.append(make("span", "n", number), make("span", "s", sign), make("span", "c", text));
    return row;
  };
  const showFile = () => {
    const view = at("view"), now = filesAt(state.step), before = filesAt(state.step - 1);
    const fresh = now.get(state.path), old = before.get(state.path);
    view.replaceChildren();
    at("path").textContent = state.path === null ? "" : "/" + shown(state.path);
    for (const tab of ["diff", "file"]) at("tab-" + tab).setAttribute("aria-selected", String(state.tab === tab));
    at("note").textContent = "";
    if (state.path === null) return view.append(make("div", "empty", "Nothing is here at this moment."));
    const blob = content(fresh), past = content(old);
    if (state.tab === "file") {
      if (!fresh) return view.append(make("div", "empty", "The file is not there at this moment."));
      at("note").textContent = [fresh[2], size(fresh[1]), blob && blob.note].filter(Boolean).join(" · ");
      if (!blob || blob.text === undefined) return;
      lines(blob.text).forEach((text, index) => view.append(line(index + 1, "", text)));
      if (blob.text === "") view.append(make("div", "empty", "The file is empty."));
      return;
    }
    if (fresh && old && fresh[3] === old[3])
      return view.append(make("div", "empty", fresh[2] === old[2] && fresh[1] === old[1]
        ? "The same as in the snapshot before." : `Only attributes changed: ${old[2]} → ${fresh[2]}`));
    at("note").textContent = [past && past.note, blob && blob.note].filter(Boolean).join(" → ");
    const rows = difference(lines((past && past.text) || ""), lines((blob && blob.text) || ""));
    if (!rows.length) view.append(make("div", "empty", fresh ? "An empty file came." : "An empty file went."));
    let oldNumber = 0, newNumber = 0, skipped = 0;
    rows.forEach(([sign, text], index) => {
      if (sign !== "+") oldNumber++;
      if (sign !== "-") newNumber++;
      const near = rows.slice(Math.max(0, index - 3), index + 4).some(([other]) => other !== " ");
      if (!near) { skipped++; return; }
      if (skipped) { view.append(make("div", "skip", `${skipped} unchanged line${skipped > 1 ? "s" : ""}`)); skipped = 0; }
      view.append(line(sign === "-" ? oldNumber : newNumber, sign === "-" ? "−" : sign, text).cloneNode(true));
      if (sign === "-") view.lastChild.className = "l del";
    });
    if (skipped) view.append(make("div", "skip", `${skipped} unchanged line${skipped > 1 ? "s" : ""}`));
  };

  // ---- the tree of one moment, with what went since the one before
  const showTree = () => {
    const now = filesAt(state.step), changes = changesAt(state.step), tree = at("tree");
    const paths = [...new Set([...now.keys(), ...[...changes.keys()].filter((path) => changes.get(path) === "gone")])].sort();
    if (!paths.includes(state.path)) {
      const first = ["added", "changed", "gone"].map((kind) => paths.find((path) => changes.get(path) === kind));
      state.path = [...first, paths[0], null].find((path) => path !== undefined);
    }
    tree.replaceChildren();
    let directory = "";
    const inOrder = paths.map((path) => [path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : "", path])
      .sort((a, b) => (a[0] === b[0] ? (a[1] < b[1] ? -1 : 1) : a[0] < b[0] ? -1 : 1));
    for (const [parent, path] of inOrder) {
      if (parent !== directory) { directory = parent; tree.append(make("div", "dir", shown(parent) + "/")); }
      const change = changes.get(path), entry = now.get(path);
      const button = make("button", change || "");
      button.type = "button";
      button.dataset.path = path;
      button.setAttribute("aria-current", String(path === state.path));
      const kind = entry && entry[0] === "l" ? " ↗" : entry && entry[0] === "d" ? "/" : "";
      button.append(make("span", "sign", SIGNS[change] || ""), make("span", "name", shown(path.slice(path.lastIndexOf("/") + 1)) + kind),
        make("span", "size", entry ? size(entry[1]) : "gone"));
      button.addEventListener("click", () => { state.path = path; state.tab = changes.has(path) ? "diff" : "file"; show(); });
      tree.append(button);
    }
    if (!paths.length) tree.append(make("div", "dir", "empty"));
    return { changes, paths: inOrder.map(([, path]) => path) };
  };

  let order = [];
  const show = () => {
    const steps = data.filesystems[state.fs].snapshots, step = steps[state.step];
    at("slider").max = String(Math.max(0, steps.length - 1));
    at("slider").value = String(state.step);
    at("back").disabled = state.step === 0;
    at("forward").disabled = state.step >= steps.length - 1;
    const label = step.txn === null ? "now" : step.labels.length ? step.labels.join(", ") : `snapshot ${step.txn}`;
    at("label").textContent = label;
    at("slider").setAttribute("aria-valuetext", label);
    at("when").textContent = [step.txn === null ? "" : `#${step.txn}`, step.time_ms === null ? "" : new Date(step.time_ms).toLocaleString(),
      step.note || ""].filter(Boolean).join(" · ");
    [...at("ticks").children].forEach((tick, index) => tick.classList.toggle("now", index === state.step));
    const { changes, paths } = showTree();
    order = paths;
    const counts = { added: 0, changed: 0, gone: 0 };
    for (const kind of changes.values()) counts[kind]++;
    at("summary").replaceChildren(
      ...[["added", "good", "added"], ["changed", "warn", "changed"], ["gone", "bad", "removed"]]
        .filter(([kind]) => counts[kind]).map(([kind, tone, word]) => make("span", "badge " + tone, `${counts[kind]} ${word}`)));
    if (!changes.size) at("summary").append(make("span", "badge", "nothing changed"));
    showFile();
  };
  const open = (index) => {
    state.fs = index;
    const steps = data.filesystems[index].snapshots;
    state.step = steps.length - 1;
    state.path = null;
    at("filesystem").value = String(index);
    at("ticks").replaceChildren(...steps.map((step, place) => {
      const tick = make("span", step.labels.length ? "labelled" : "");
      tick.title = step.labels.join(", ") || (step.txn === null ? "now" : `snapshot ${step.txn}`);
      tick.addEventListener("click", () => move(place));
      return tick;
    }));
    show();
  };
  const move = (step) => {
    const last = data.filesystems[state.fs].snapshots.length - 1;
    state.step = Math.min(Math.max(step, 0), last);
    state.tab = "diff";
    const changes = changesAt(state.step);
    if (!changes.has(state.path)) state.path = null;
    show();
  };

  // ---- the rest of the page
  document.title = data.title;
  at("title").textContent = data.title;
  at("subtitle").textContent = data.subtitle;
  for (const card of data.cards) {
    const box = make("div", "card " + card.tone);
    box.append(make("b", "", card.value), make("span", "", card.label));
    at("cards").append(box);
  }
  data.filesystems.forEach((fs, index) => {
    const option = make("option", "", shown(fs.title));
    option.value = String(index);
    at("filesystem").append(option);
  });
  for (const row of data.rows) {
    const tr = make("tr", row.explorer === null ? "" : "open"), name = make("td"), title = make("td"), badges = make("td");
    const text = make(row.explorer === null ? "span" : "button", "", shown(row.name));
    if (row.explorer !== null) {
      text.type = "button";
      tr.addEventListener("click", () => { open(row.explorer); at("explorer").scrollIntoView({ block: "start" }); });
    }
    name.append(text);
    title.append(make("span", "", shown(row.title) + " "), make("span", "tag", shown(row.tag)));
    for (const badge of row.badges) badges.append(make("span", "badge " + badge.tone, badge.text));
    tr.append(name, title, badges);
    tr.dataset.words = [row.name, row.title, row.tag, ...row.badges.map((badge) => badge.text)].join(" ").toLowerCase();
    at("rows").append(tr);
  }
  at("list").hidden = data.rows.length === 0;
  at("list-title").textContent = `${data.rows.length} ${data.row_name}${data.rows.length === 1 ? "" : "s"}`;
  at("filter").addEventListener("input", () => {
    const words = at("filter").value.toLowerCase();
    for (const tr of at("rows").children) tr.hidden = !tr.dataset.words.includes(words);
  });

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const setTheme = (name) => { document.documentElement.dataset.theme = name; };
  setTheme(location.hash === "#dark" || (location.hash !== "#light" && dark.matches) ? "dark" : "light");
  const toggle = () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  at("theme").addEventListener("click", toggle);

  at("explorer").hidden = data.filesystems.length === 0;
  if (!data.filesystems.length) return;
  at("filesystem").addEventListener("change", () => open(Number(at("filesystem").value)));
  at("slider").addEventListener("input", () => move(Number(at("slider").value)));
  at("back").addEventListener("click", () => move(state.step - 1));
  at("forward").addEventListener("click", () => move(state.step + 1));
  for (const tab of ["diff", "file"]) at("tab-" + tab).addEventListener("click", () => { state.tab = tab; showFile(); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "t") toggle();
    else if (event.key === "ArrowLeft") move(state.step - 1);
    else if (event.key === "ArrowRight") move(state.step + 1);
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      if (event.target.id === "view" || !order.length) return;
      const place = order.indexOf(state.path) + (event.key === "ArrowDown" ? 1 : -1);
      state.path = order[Math.min(Math.max(place, 0), order.length - 1)];
      show();
      const current = document.querySelector("#tree [aria-current=true]");
      if (current) current.scrollIntoView({ block: "nearest" });
    } else return;
    event.preventDefault();
  });
  open(0);
})();
