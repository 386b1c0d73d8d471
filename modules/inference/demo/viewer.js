// The viewer: an X-ray with boxes, the sentences of the report, and the scene graph. Hovering or clicking one of them
// highlights what belongs to it in the others. viewer_render.js and viewer_save.js hold the rest of this script.
// Gradio runs all three as the body of one function with `element`, `props`, `trigger` and `watch`. `props.value` is
// built by handlers.py, and inserted as text only, never as markup.

// A sentence highlights its strongest regions: at most this many, with at least this share of the strongest one's
// attention.
const MAX_HIGHLIGHTED = 3;
const MIN_RELATIVE_SHARE = 0.5;
// Seconds to wait for a report with the edits before they are sent again; together, as long as a report may take.
const RESEND_DELAYS = [2, 4, 8, 16, 32];

let value = null; // the displayed study, see `parseValue`
let edits = { regions: {}, attributes: {} };
let sentEdits = null; // JSON of the edits whose report has not arrived yet
let resendTimer = null;
let pinned = null; // { sentence: number } or { region: name }, clicked
let hovered = null; // the same, under the pointer or with keyboard focus
let boxFilter = "graph";
let indication = ""; // the text in the field, which may be withheld
let boxChoices = {}; // region -> whether to show its box, overriding the filter

// State

/** The regions that the sentence attends to most, as [name, share], the largest first. */
function topRegions(sentence) {
    const strongest = Math.max(0, ...Object.values(sentence.regions));
    return Object.entries(sentence.regions)
        .filter(([, share]) => share > 0 && share >= MIN_RELATIVE_SHARE * strongest)
        .sort(([, one], [, other]) => other - one)
        .slice(0, MAX_HIGHLIGHTED);
}

function isInGraph(region) {
    return edits.regions[region.name] ?? region.selected;
}

function hasAttribute(region, attribute) {
    return edits.attributes[region.name]?.[attribute.name] ?? attribute.selected;
}

function isBoxShown(region) {
    const byFilter = { graph: isInGraph(region), abnormal: isInGraph(region) && region.abnormal, all: true, none: false };
    return boxChoices[region.name] ?? byFilter[boxFilter];
}

function isEdited({ regions, attributes, context }) {
    const isOther = JSON.stringify(context) !== JSON.stringify(value.context?.unedited);
    return Object.keys(regions).length + Object.keys(attributes).length > 0 || isOther;
}

/** No edits: the graph as predicted, with all that the model was given when the study was opened. */
function noEdits() {
    return { regions: {}, attributes: {}, ...(value?.context && { context: { ...value.context.unedited } }) };
}

function isApplied() {
    return JSON.stringify(edits) === JSON.stringify(value.edits);
}

function findRegion(name) {
    return value.regions.find((region) => region.name === name);
}

function area([left, top, right, bottom]) {
    return (right - left) * (bottom - top);
}

/** Flatten `received` to one object whose regions are a list; `selected` is the model's decision, without the edits. */
function parseValue(received) {
    if (!received.result) return received;
    const { result, edits: applied } = received;
    const regions = Object.entries(result.regions).map(([name, region]) => {
        const choices = applied.attributes[name] ?? {};
        const all = { ...region.attributes, ...received.other_attributes[name] };
        const attributes = Object.entries(all).map(([attribute, probability]) => ({
            name: attribute,
            label: attributeLabel(attribute),
            probability,
            selected: attribute in choices ? !choices[attribute] : attribute in region.attributes,
        }));
        const selected = name in applied.regions ? !applied.regions[name] : region.selected;
        return { ...region, name, selected, attributes };
    });
    const [width, height] = result.image_size;
    return { ...received, ...result, regions, width, height };
}

/** The readable part of `category|polarity|label`; other names are unchanged. */
function attributeLabel(attribute) {
    const [, polarity, ...label] = attribute.split("|");
    if (!label.length) return attribute;
    return polarity === "no" ? `no ${label.join("|")}` : label.join("|");
}

// Highlighting

/** Highlight what the hovered element, or else the pinned one, refers to. */
function highlight() {
    const target = hovered ?? pinned;
    const regions = new Map(); // name -> strength, 0..1
    const sentences = new Set();
    if (target?.region !== undefined) {
        regions.set(target.region, 1);
        value.sentences.forEach((sentence, number) => {
            if (topRegions(sentence).some(([name]) => name === target.region)) sentences.add(number);
        });
    } else if (target) {
        const top = topRegions(value.sentences[target.sentence]);
        top.forEach(([name, share]) => regions.set(name, (share / top[0][1]) ** 2));
        sentences.add(target.sentence);
    }
    // Labels do not cover each other if that of the smallest box is below it and the others are inside at the top.
    const boxed = value.regions.filter(({ name, box }) => box && regions.has(name));
    const smallest = boxed.length > 1 && boxed.reduce((one, other) => (area(other.box) < area(one.box) ? other : one));
    for (const xray of element.querySelectorAll(".xray")) xray.classList.toggle("highlighting", Boolean(target));
    for (const box of element.querySelectorAll(".prior .box")) {
        box.classList.toggle("highlighted", regions.has(box.dataset.region));
        box.hidden = !regions.has(box.dataset.region) && !isBoxShown(findRegion(box.dataset.region));
    }
    for (const box of element.querySelectorAll(".current .box")) {
        const region = findRegion(box.dataset.region);
        const isHighlighted = regions.has(region.name);
        box.classList.toggle("label-below", region === smallest);
        box.hidden = !isHighlighted && !isBoxShown(region);
        box.classList.toggle("highlighted", isHighlighted);
        box.style.setProperty("--share", regions.get(region.name) ?? 0);
        box.ariaPressed = String(pinned?.region === region.name);
    }
    for (const row of element.querySelectorAll("[data-row]")) {
        row.classList.toggle("highlighted", regions.has(row.dataset.row));
    }
    for (const button of element.querySelectorAll(".sentence")) {
        const number = Number(button.dataset.sentence);
        button.classList.toggle("highlighted", sentences.has(number));
        button.ariaPressed = String(pinned?.sentence === number);
    }
    find(".caption").textContent = caption(target, regions, sentences);
}

function caption(target, regions, sentences) {
    if (!target) return "Left and right are the patient's.";
    if (target.region === undefined) return regions.size ? [...regions.keys()].join(", ") : "This sentence looked at no region.";
    const count = { 0: "no sentence looked at it most", 1: "1 sentence" }[sentences.size] ?? `${sentences.size} sentences`;
    return `${target.region}: ${count}`;
}

/** What the DOM node, or an ancestor, refers to: `{ sentence }`, `{ region }` or null. */
function targetOf(node) {
    const closest = node?.closest?.("[data-sentence], .box, .name");
    if (!closest) return null;
    if (closest.dataset.region !== undefined) return { region: closest.dataset.region };
    return { sentence: Number(closest.dataset.sentence) };
}

function isSameTarget(one, other) {
    return one?.sentence === other?.sentence && one?.region === other?.region;
}

function hover(node) {
    const target = targetOf(node);
    if (isSameTarget(target, hovered)) return;
    hovered = target;
    highlight();
}

function pin(node) {
    const target = targetOf(node);
    pinned = isSameTarget(target, pinned) ? null : target;
    highlight();
}

// Edits

/** Choose the opposite of the model's decision, or take the choice back. */
function toggleChoice(choices, name, isSelected) {
    if (name in choices) delete choices[name];
    else choices[name] = !isSelected;
}

function toggleRegion(name) {
    toggleChoice(edits.regions, name, findRegion(name).selected);
    sendEdits();
}

function toggleAttribute(regionName, name) {
    const attribute = findRegion(regionName).attributes.find((one) => one.name === name);
    const choices = (edits.attributes[regionName] ??= {});
    toggleChoice(choices, name, attribute.selected);
    if (!Object.keys(choices).length) delete edits.attributes[regionName];
    sendEdits();
}

/** Send the edits. Those made while a report is being generated are sent when it arrives. */
function sendEdits() {
    render();
    if (sentEdits === null) sendUntilApplied();
}

/**
 * Send the edits, and again until a report includes them. Gradio can lose a report: it closes its connection when
 * nothing is pending, and does not notice an event that is sent in that moment. The next event connects again.
 */
function sendUntilApplied(attempt = 0) {
    stopSending();
    if (isApplied()) return;
    if (attempt === RESEND_DELAYS.length) {
        find(".error").textContent = "The server does not respond: edit the graph again, or reload the page";
        return;
    }
    sentEdits = JSON.stringify(edits);
    trigger("edit", JSON.parse(sentEdits));
    resendTimer = setTimeout(sendUntilApplied, 1000 * RESEND_DELAYS[attempt], attempt + 1);
}

function stopSending() {
    clearTimeout(resendTimer);
    sentEdits = null;
}

/** Show or withhold a part of the context. An indication without words is none. */
function setContext(part, isShown) {
    if (part === "prior") edits.context.prior = isShown;
    else edits.context.indication = isShown && indication.trim() ? indication.trim() : null;
    sendEdits();
}

// Events

// Scrolling below a resting pointer also fires mousemove; the pointer then must not take precedence over keyboard focus.
element.addEventListener("mousemove", (event) => {
    if (event.movementX || event.movementY) hover(event.target);
});
element.addEventListener("mouseleave", () => hover(null));
element.addEventListener("focusin", (event) => hover(event.target));
element.addEventListener("focusout", (event) => hover(event.relatedTarget));
element.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    pinned = hovered = null;
    highlight();
});
element.addEventListener("change", ({ target }) => {
    if (target.name === "boxes") {
        boxFilter = target.value;
        boxChoices = {};
        render();
    } else if (target.dataset.toggleBox !== undefined) {
        boxChoices[target.dataset.toggleBox] = target.checked;
        highlight();
    } else if (target.dataset.toggleRegion !== undefined) {
        toggleRegion(target.dataset.toggleRegion);
    } else if (target.dataset.context !== undefined) {
        setContext(target.dataset.context, target.checked);
    } else if (target.dataset.key === "indication") {
        indication = target.value;
        setContext("indication", true);
    }
});
element.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    if (button.dataset.toggleAttribute !== undefined) toggleAttribute(button.dataset.ofRegion, button.dataset.toggleAttribute);
    else if (button.dataset.export === "json") saveJson();
    else if (button.dataset.export === "png") saveImage();
    else if (button.classList.contains("undo")) {
        edits = noEdits();
        sendEdits();
    } else if (targetOf(button)) pin(button);
});

function receive() {
    const isOther = props.value?.study !== value?.study;
    value = props.value && parseValue(props.value);
    if (isOther || value?.error) stopSending();
    if (!value) return;
    // Edits made while the report was being generated are newer than those that come with it.
    if (isOther || value.error) edits = structuredClone(value.edits ?? noEdits());
    if (isOther) indication = value.edits?.context?.indication ?? "";
    if (isOther) boxChoices = {};
    pinned = hovered = null;
    render();
    // A report with other edits than those sent last answers an earlier event: keep waiting.
    const isExpected = sentEdits === null || sentEdits === JSON.stringify(value.edits);
    if (isExpected && !value.error) sendUntilApplied();
}

watch("value", receive);
receive();
