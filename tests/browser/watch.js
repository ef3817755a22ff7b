// Runs in the page. It knows the controls of a widget, what its panel shows, when that has changed, and whether the kernel has answered.
window.course = {
  pending: new Set(), // messages of widgets that the kernel has not dealt with yet
  trouble: [], // what the kernel wrote to stderr, or raised, since `listen`
  lastMessage: 0,
  lastEvent: 0,

  notebook: () => window.jupyterapp?.shell?.currentWidget,
  kernel: () => course.notebook()?.sessionContext?.session?.kernel,

  // The code cells that are not empty, with what came of them.
  cells() {
    const cells = course.notebook().content.widgets.map((widget) => widget.model);
    const code = cells.filter((model) => model.type === "code" && model.sharedModel.source.trim());
    return code.map((model) => {
      const done = model.executionCount !== null && model.executionState !== "running";
      return { done, count: model.executionCount ?? 0, outputs: model.outputs.toJSON().map(course.brief) };
    });
  },
  brief({ output_type, name, text, ename, evalue, data }) {
    return { output_type, name, text: [text ?? ""].flat().join(""), ename, evalue, widget: course.widgetType in (data ?? {}) };
  },
  widgetType: "application/vnd.jupyter.widget-view+json",
  outputs: () => course.cells().flatMap((cell) => cell.outputs),

  // Have all cells run, or has one failed? And is every widget among their outputs drawn?
  finished: () => course.cells().every((cell) => cell.done) || course.outputs().some((output) => output.output_type === "error"),
  drawn() {
    const drawn = document.querySelectorAll(".jp-OutputArea-output > .jupyter-widgets").length;
    return drawn === course.outputs().filter((output) => output.widget).length;
  },

  listen() {
    course.kernel().anyMessage.connect((_, { msg, direction }) => {
      const type = msg.header.msg_type;
      course.lastMessage = performance.now();
      if (direction === "send" && type === "comm_msg") course.pending.add(msg.header.msg_id);
      if (type === "status" && msg.content.execution_state === "idle") course.pending.delete(msg.parent_header.msg_id);
      if (type === "error") course.trouble.push(`${msg.content.ename}: ${msg.content.evalue}`);
      if (type === "stream" && msg.content.name === "stderr") course.trouble.push(msg.content.text.trim().slice(-500));
    });
  },

  kinds: {
    slider: ".noUi-handle",
    dropdown: ".widget-dropdown select",
    list: ".widget-select select",
    number: ".widget-text input[type=number]",
    text: ".widget-text input:not([type=number]), .widget-combobox input, .widget-textarea textarea",
    checkbox: ".widget-checkbox input",
    choice: ".widget-radio, .widget-toggle-buttons",
    button: ".widget-button, .jupyter-widgets.widget-toggle-button",
  },

  // Numbers the controls that can be seen, and says of each what it is and what is written beside it.
  controls(root) {
    const found = [];
    for (const [kind, selector] of Object.entries(course.kinds)) {
      const seen = [...root.querySelectorAll(selector)].filter((element) => element.offsetParent !== null && !element.disabled);
      for (const element of seen) {
        element.dataset.control = found.length;
        const beside = [...element.closest(".lm-Widget").querySelectorAll(".widget-label, .widget-label-basic")];
        const words = [...beside.map((label) => label.textContent.replace("\u200b", "")), element.textContent, element.placeholder ?? ""];
        found.push({ kind, label: words.map((text) => text.trim()).find(Boolean) ?? "" });
      }
    }
    return found;
  },

  // What the panels of a widget show: their HTML, and the address of each picture, which is new for every new picture.
  shown(root) {
    const all = [...root.querySelectorAll(".widget-html-content, .widget-htmlmath-content, img.widget-image")];
    const panels = all.filter((panel) => !panel.closest(".course-status")); // that line says what the panel is waiting for
    return panels.map((panel) => panel.src || panel.innerHTML).join("\n");
  },

  // How wide the tracks of the sliders are, in pixels.
  tracks: (root) => [...root.querySelectorAll(".noUi-target")].map((track) => track.getBoundingClientRect().width),

  // By how many pixels the controls stand out of the output that holds the widget; 0 where none does.
  overhang(root) {
    const end = root.getBoundingClientRect().right;
    const found = [...root.querySelectorAll("input, select, textarea, .noUi-target, .widget-readout")].filter((one) => one.offsetParent !== null);
    return Math.max(0, ...found.map((one) => one.getBoundingClientRect().right - end));
  },

  // How many pictures have no text for those who cannot see them? (An Image widget cannot have one; an <img alt="..."> in HTML can.)
  mute: (root) => [...root.querySelectorAll("img")].filter((picture) => !picture.alt.trim()).length,

  // From now on notes how long after the last key or click the panel shows something new, until `outcome` is asked for.
  watch(root) {
    course.before = course.shown(root);
    course.root = root;
    course.noticed = false;
    course.ms = null;
    course.armed = performance.now();
    course.observer = new MutationObserver(async () => {
      if (course.noticed || course.shown(root) === course.before) return;
      course.noticed = true;
      const cause = course.lastEvent;
      await Promise.all([...root.querySelectorAll("img")].map((picture) => picture.decode().catch(() => null)));
      requestAnimationFrame(() => (course.ms = performance.now() - cause));
    });
    course.observer.observe(root, { subtree: true, childList: true, characterData: true, attributes: true });
  },

  // Waits until the kernel has dealt with everything and nothing moves any more. `ms` is null where the panel did not change.
  async outcome(limit) {
    let timely = true;
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      const now = performance.now();
      const calm = course.pending.size === 0 && now - course.lastMessage > 150 && now - Math.max(course.armed, course.lastEvent) > 300;
      if (calm && (course.ms !== null || course.shown(course.root) === course.before)) break;
      if (now - course.armed > limit) {
        timely = false;
        break;
      }
    }
    course.observer.disconnect();
    return { ms: course.ms, timely };
  },
};

for (const type of ["keydown", "pointerup", "change"]) {
  document.addEventListener(type, (event) => (course.lastEvent = event.timeStamp), true);
}
