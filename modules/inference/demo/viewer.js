// The viewer: a picture with boxes, the report's sentences and the scene graph, each of which points at the others.
// Gradio runs this as the body of a function with `element`, `props`, `trigger` and `watch`. `props.value` is what
// `modules/inference/demo/page.py` makes of a study; it goes into the page as text only, never as markup.

// A sentence lights its strongest regions: so many at most, each with at least this part of the strongest one's attention.
const MOST_LIT = 3;
const LIT_SHARE = 0.5;
// Attributes that are not in the graph and less probable than this stay behind "more".
const WORTH_SHOWING = 0.2;
const PICTURE_SIDE = 1024;
// Seconds until choices that the shown report does not have are sent again, each time longer.
const SEND_AGAIN_AFTER = [1, 2, 4, 8, 16];

const find = (selector) => element.querySelector(selector);
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

let value = null; // what the page shows, see `opened`
let edits = { regions: {}, attributes: {} };
let sendingAgain = null; // the timer that sends choices again
let pinned = null; // { sentence: number } or { region: name }, chosen by a click
let hovered = null; // the same, under the pointer or the keyboard's focus
let boxFilter = "graph";
let boxChoices = {}; // region -> whether its box is shown, where somebody chose

/** An element with properties, data attributes and children; strings become text. */
function make(tag, { data = {}, ...properties } = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    Object.assign(made.dataset, data);
    made.append(...children);
    return made;
}

// What the study says

function litRegions(sentence) {
    const strongest = Math.max(0, ...Object.values(sentence.regions));
    return Object.entries(sentence.regions)
        .filter(([, share]) => share > 0 && share >= LIT_SHARE * strongest)
        .sort(([, one], [, other]) => other - one)
        .slice(0, MOST_LIT);
}

function isInGraph(region) {
    return edits.regions[region.name] ?? region.selected;
}

function isGiven(region, attribute) {
    return edits.attributes[region.name]?.[attribute.name] ?? attribute.given;
}

function isBoxShown(region) {
    const byFilter = { graph: isInGraph(region), abnormal: isInGraph(region) && region.abnormal, all: true, none: false };
    return boxChoices[region.name] ?? byFilter[boxFilter];
}

function isEdited({ regions, attributes }) {
    return Object.keys(regions).length + Object.keys(attributes).length > 0;
}

function area([left, top, right, bottom]) {
    return (right - left) * (bottom - top);
}

/** A sentence of a cleaned report as one prints it: the words are the model's. */
function printed(text) {
    return (text.charAt(0).toUpperCase() + text.slice(1)).replace(/ ([.,;:])/g, "$1");
}

// Drawing

function render() {
    const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const open = new Set([...element.querySelectorAll("details[open]")].map((details) => details.dataset.open));
    find(".error").textContent = value.error ?? "";
    find(".study").hidden = !value.result;
    if (!value.result) return;
    renderPicture();
    renderReport();
    renderGraph();
    renderObservations();
    // Until the report that was written from these edits is here.
    find(".study").ariaBusy = String(JSON.stringify(edits) !== JSON.stringify(value.edits));
    for (const details of element.querySelectorAll("details")) details.open = open.has(details.dataset.open);
    light();
    if (focused) find(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function renderPicture() {
    const picture = find(".picture img");
    if (picture.src !== value.picture) picture.src = value.picture;
    picture.alt = `The X-ray ${value.name}`;
    find(".picture").style.setProperty("--ratio", value.width / value.height);
    // Small boxes lie on large ones, so that each can be reached.
    const boxed = value.regions.filter((region) => region.box).sort((one, other) => area(other.box) - area(one.box));
    find(".boxes").replaceChildren(...boxed.map(boxButton));
}

function boxButton(region) {
    const [left, top, right, bottom] = region.box;
    const button = make(
        "button",
        {
            type: "button",
            className: region.abnormal ? "box abnormal" : "box",
            data: { region: region.name, key: `box ${region.name}` },
            ariaLabel: `${region.name}${region.abnormal ? ", abnormal" : ""}: show its sentences`,
        },
        make("span", {}, region.name),
    );
    // The name stays inside the picture.
    button.classList.toggle("right", left + right > value.width);
    button.classList.toggle("bottom", bottom > 0.93 * value.height);
    Object.assign(button.style, {
        left: `${(100 * left) / value.width}%`,
        top: `${(100 * top) / value.height}%`,
        width: `${(100 * (right - left)) / value.width}%`,
        height: `${(100 * (bottom - top)) / value.height}%`,
    });
    return button;
}

function renderReport() {
    find(".warnings").replaceChildren(...value.warnings.map((warning) => make("li", {}, warning)));
    find(".sentences").replaceChildren(...value.sentences.map(sentenceItem));
    const said = new Set(value.sentences.map((sentence) => sentence.text));
    const dropped = value.unedited.filter((text) => !said.has(text));
    const isSame = !dropped.length && value.sentences.length === value.unedited.length;
    find(".unchanged").textContent = isEdited(value.edits) && isSame ? "Your changes leave the report as it is." : "";
    find(".dropped").hidden = !dropped.length;
    find(".dropped ul").replaceChildren(...dropped.map((text) => make("li", {}, make("del", {}, printed(text)))));
}

function sentenceItem(sentence, number) {
    const regions = litRegions(sentence).map(([name, share]) => `${name} ${percent(share)}`);
    const isNew = !value.unedited.includes(sentence.text);
    const details = [
        regions.length ? `looked at ${regions.join(", ")}` : "looked at no region",
        `confidence ${percent(sentence.confidence)}`,
    ];
    const button = make(
        "button",
        { type: "button", className: "sentence", data: { sentence: number, key: `sentence ${number}` } },
        make("span", { className: "text" }, printed(sentence.text)),
        make("small", {}, isNew ? make("b", {}, "changed · ") : "", details.join(" · ")),
    );
    return make("li", {}, button);
}

function renderGraph() {
    const rows = (regions) => regions.map(regionRow);
    const chosen = value.regions.filter(isInGraph);
    const rest = value.regions.filter((region) => !isInGraph(region));
    find(".undo").hidden = !isEdited(edits);
    find(".chosen").replaceChildren(...rows(chosen));
    find(".rest summary").textContent = `Regions that are not in the graph (${rest.length})`;
    find(".rest ul").replaceChildren(...rows(rest));
}

function regionRow(region) {
    const inGraph = isInGraph(region);
    const toggle = make("input", {
        type: "checkbox", checked: inGraph, className: "switch", data: { toggleRegion: region.name, key: `graph ${region.name}` },
        ariaLabel: `${region.name} in the graph`,
    });
    const name = make(
        "button",
        { type: "button", className: "name", data: { region: region.name, key: `name ${region.name}` } },
        region.name,
        region.abnormal ? make("span", { className: "tag" }, "abnormal") : "",
        region.name in edits.regions ? make("span", { className: "tag yours" }, "your choice") : "",
    );
    const box = make("input", {
        type: "checkbox", checked: isBoxShown(region), data: { toggleBox: region.name, key: `show ${region.name}` },
        ariaLabel: `show the box of ${region.name}`,
    });
    const head = make(
        "div",
        { className: "head" },
        toggle,
        name,
        make("span", { className: "probability", title: "probability that the report speaks of it" }, percent(region.probability)),
        region.box ? make("label", { className: "show" }, box, "box") : make("span", { className: "show" }, "no box"),
    );
    return make("li", { className: "region", data: { row: region.name } }, head, ...(inGraph ? attributeChips(region) : []));
}

function attributeChips(region) {
    const sorted = [...region.attributes].sort((one, other) => other.probability - one.probability);
    const isUpFront = (attribute) => attribute.given || isGiven(region, attribute) || attribute.probability >= WORTH_SHOWING;
    const chips = (attributes) =>
        make("div", { className: "chips" }, ...attributes.map((attribute) => attributeChip(region, attribute)));
    const hidden = sorted.filter((attribute) => !isUpFront(attribute));
    const more = make(
        "details",
        { data: { open: `more ${region.name}` } },
        make("summary", { data: { key: `more ${region.name}` } }, `${hidden.length} more`),
        chips(hidden),
    );
    return [chips(sorted.filter(isUpFront)), ...(hidden.length ? [more] : [])];
}

function attributeChip(region, attribute) {
    const isYours = edits.attributes[region.name]?.[attribute.name] !== undefined;
    return make(
        "button",
        {
            type: "button",
            className: isYours ? "chip yours" : "chip",
            ariaPressed: String(isGiven(region, attribute)),
            data: { toggleAttribute: attribute.name, ofRegion: region.name, key: `${region.name} ${attribute.name}` },
        },
        attribute.label,
        make("small", {}, percent(attribute.probability)),
    );
}

function renderObservations() {
    const sorted = Object.entries(value.observations).sort(([, one], [, other]) => other - one);
    find(".observations").replaceChildren(
        ...sorted.map(([name, probability]) => {
            const bar = make("span", { className: "bar", ariaHidden: "true" });
            bar.style.setProperty("--share", probability);
            return make("li", {}, make("span", {}, name), bar, make("span", { className: "probability" }, percent(probability)));
        }),
    );
}

// Light

/** Show what `hovered`, or else `pinned`, points at. */
function light() {
    const chosen = hovered ?? pinned;
    const regions = new Map();
    const sentences = new Set();
    if (chosen?.region !== undefined) {
        regions.set(chosen.region, 1);
        value.sentences.forEach((sentence, number) => {
            if (litRegions(sentence).some(([name]) => name === chosen.region)) sentences.add(number);
        });
    } else if (chosen) {
        const looked = litRegions(value.sentences[chosen.sentence]);
        looked.forEach(([name, share]) => regions.set(name, (share / looked[0][1]) ** 2));
        sentences.add(chosen.sentence);
    }
    // Names do not hide each other when the smallest box has its own below it, and the others inside at the top.
    const lit = value.regions.filter(({ name, box }) => box && regions.has(name));
    const smallest = lit.length > 1 && lit.reduce((one, other) => (area(other.box) < area(one.box) ? other : one));
    find(".picture").classList.toggle("lighting", Boolean(chosen));
    for (const box of element.querySelectorAll(".box")) {
        const region = value.regions.find(({ name }) => name === box.dataset.region);
        const isLit = regions.has(region.name);
        box.classList.toggle("low", region === smallest);
        box.hidden = !isLit && !isBoxShown(region);
        box.classList.toggle("lit", isLit);
        box.style.setProperty("--share", regions.get(region.name) ?? 0);
        box.ariaPressed = String(pinned?.region === region.name);
    }
    for (const row of element.querySelectorAll("[data-row]")) row.classList.toggle("lit", regions.has(row.dataset.row));
    for (const button of element.querySelectorAll(".sentence")) {
        const number = Number(button.dataset.sentence);
        button.classList.toggle("lit", sentences.has(number));
        button.ariaPressed = String(pinned?.sentence === number);
    }
    find(".caption").textContent = caption(chosen, regions, sentences);
}

function caption(chosen, regions, sentences) {
    if (!chosen) return "Left and right are the patient's.";
    if (chosen.region === undefined) return regions.size ? [...regions.keys()].join(", ") : "This sentence looked at no region.";
    const told = { 0: "no sentence looked at it most", 1: "1 sentence" }[sentences.size] ?? `${sentences.size} sentences`;
    return `${chosen.region}: ${told}`;
}

/** What the element, or what it lies in, points at: `{ sentence }`, `{ region }` or null. */
function pointed(target) {
    const found = target?.closest?.("[data-sentence], .box, .name");
    if (!found) return null;
    return found.dataset.region === undefined ? { sentence: Number(found.dataset.sentence) } : { region: found.dataset.region };
}

function same(one, other) {
    return one?.sentence === other?.sentence && one?.region === other?.region;
}

function hover(target) {
    const next = pointed(target);
    if (same(next, hovered)) return;
    hovered = next;
    light();
}

function pin(target) {
    const next = pointed(target);
    pinned = same(next, pinned) ? null : next;
    light();
}

// Edits

/** Choose the opposite of what is; a second time takes the choice back. */
function flip(choices, name, isOn) {
    if (name in choices) delete choices[name];
    else choices[name] = !isOn;
}

function regionOf(name) {
    return value.regions.find((region) => region.name === name);
}

function flipRegion(name) {
    flip(edits.regions, name, regionOf(name).selected);
    sendEdits();
}

function flipAttribute(regionName, name) {
    const attribute = regionOf(regionName).attributes.find((one) => one.name === name);
    const choices = (edits.attributes[regionName] ??= {});
    flip(choices, name, attribute.given);
    if (!Object.keys(choices).length) delete edits.attributes[regionName];
    sendEdits();
}

function sendEdits() {
    render();
    trigger("edit", structuredClone(edits));
    sendAgainUnlessShown();
}

/** Of choices in quick succession Gradio may pass on others than the last, or none: send them until a report has them. */
function sendAgainUnlessShown(times = 0) {
    clearTimeout(sendingAgain);
    const isShown = JSON.stringify(edits) === JSON.stringify(value.edits);
    if (isShown || times === SEND_AGAIN_AFTER.length) return;
    sendingAgain = setTimeout(() => {
        trigger("edit", structuredClone(edits));
        sendAgainUnlessShown(times + 1);
    }, 1000 * SEND_AGAIN_AFTER[times]);
}

// Export

function save(blob, ending) {
    const link = make("a", { href: URL.createObjectURL(blob), download: `${value.name.replace(/\.[^.]*$/, "")}.${ending}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
}

function saveJson() {
    const text = JSON.stringify({ ...value.result, edits: value.edits }, null, 2);
    save(new Blob([text], { type: "application/json" }), "json");
}

/** The picture with the boxes that are shown, and the report below it. */
async function savePicture() {
    const picture = find(".picture img");
    await picture.decode();
    const scale = PICTURE_SIDE / Math.max(value.width, value.height);
    const [width, height] = [value.width * scale, value.height * scale];
    const canvas = make("canvas", { width });
    const context = canvas.getContext("2d");
    const font = "20px system-ui, sans-serif";
    context.font = font;
    const lines = [...value.sentences.map(({ text }) => printed(text)), "", value.notice].flatMap((text) => wrapped(context, text, width - 40));
    canvas.height = height + 30 * lines.length + 40;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, canvas.height);
    context.drawImage(picture, 0, 0, width, height);
    for (const box of element.querySelectorAll(".box:not([hidden])")) drawBox(context, regionOf(box.dataset.region), scale);
    context.font = font;
    context.fillStyle = "#1c2430";
    lines.forEach((line, number) => context.fillText(line, 20, height + 40 + 30 * number));
    canvas.toBlob((blob) => save(blob, "png"), "image/png");
}

function drawBox(context, region, scale) {
    const [left, top, right, bottom] = region.box.map((corner) => corner * scale);
    context.lineWidth = 3;
    context.strokeStyle = context.fillStyle = region.abnormal ? "#ffb000" : "#4fc3f7";
    context.strokeRect(left, top, right - left, bottom - top);
    context.font = "16px system-ui, sans-serif";
    context.fillText(region.name, left + 5, top + 18);
}

/** `text` in lines that are at most `width` pixels wide. */
function wrapped(context, text, width) {
    const lines = [""];
    for (const word of text.split(" ")) {
        const longer = `${lines.at(-1)} ${word}`.trim();
        if (lines.at(-1) && context.measureText(longer).width > width) lines.push(word);
        else lines[lines.length - 1] = longer;
    }
    return lines;
}

// Events

// The browser also reports a pointer that rests while the page scrolls below it; the keyboard's focus goes before that.
element.addEventListener("mousemove", (event) => {
    if (event.movementX || event.movementY) hover(event.target);
});
element.addEventListener("mouseleave", () => hover(null));
element.addEventListener("focusin", (event) => hover(event.target));
element.addEventListener("focusout", (event) => hover(event.relatedTarget));
element.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    pinned = hovered = null;
    light();
});
element.addEventListener("change", ({ target }) => {
    if (target.name === "boxes") {
        boxFilter = target.value;
        boxChoices = {};
        render();
    } else if (target.dataset.toggleBox !== undefined) {
        boxChoices[target.dataset.toggleBox] = target.checked;
        light();
    } else if (target.dataset.toggleRegion !== undefined) {
        flipRegion(target.dataset.toggleRegion);
    }
});
element.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    if (button.dataset.toggleAttribute !== undefined) flipAttribute(button.dataset.ofRegion, button.dataset.toggleAttribute);
    else if (button.dataset.export === "json") saveJson();
    else if (button.dataset.export === "png") savePicture();
    else if (button.classList.contains("undo")) {
        edits = { regions: {}, attributes: {} };
        sendEdits();
    } else if (pointed(button)) pin(button);
});

function receive() {
    const isOther = props.value?.study !== value?.study;
    value = props.value && opened(props.value);
    if (isOther) clearTimeout(sendingAgain);
    if (!value) return;
    // Choices made while the report was being written are newer than what comes back with it.
    if (isOther || value.error) edits = structuredClone(value.edits ?? { regions: {}, attributes: {} });
    if (isOther) boxChoices = {};
    pinned = hovered = null;
    render();
    if (value.error || JSON.stringify(edits) === JSON.stringify(value.edits)) clearTimeout(sendingAgain);
}

/** `shown` with its result's regions as a list of the model's own choices: without the edits, which come on top. */
function opened(shown) {
    if (!shown.result) return shown;
    const { result, edits: made } = shown;
    const regions = Object.entries(result.regions).map(([name, region]) => {
        const chosen = made.attributes[name] ?? {};
        const all = { ...region.attributes, ...shown.other_attributes[name] };
        const attributes = Object.entries(all).map(([attribute, probability]) => ({
            name: attribute,
            label: readable(attribute),
            probability,
            given: attribute in chosen ? !chosen[attribute] : attribute in region.attributes,
        }));
        return { ...region, name, selected: name in made.regions ? !made.regions[name] : region.selected, attributes };
    });
    const [width, height] = result.image_size;
    return { ...shown, ...result, regions, width, height };
}

/** `category|polarity|label` in words; another name as it is. */
function readable(attribute) {
    const [, polarity, ...label] = attribute.split("|");
    if (!label.length) return attribute;
    return polarity === "no" ? `no ${label.join("|")}` : label.join("|");
}

watch("value", receive);
receive();
