// Builds the DOM of the viewer from the state in viewer.js.

// Attributes that are not in the graph and less probable than this are behind "more".
const MIN_PROBABILITY_SHOWN = 0.2;

const find = (selector) => element.querySelector(selector);
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** Create an element with properties, data attributes and children; strings become text. */
function make(tag, { data = {}, ...properties } = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    Object.assign(made.dataset, data);
    made.append(...children);
    return made;
}

function render() {
    const focusedKey = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const open = new Set([...element.querySelectorAll("details[open]")].map((details) => details.dataset.open));
    find(".error").textContent = value.error ?? "";
    find(".study").hidden = !value.result;
    if (!value.result) return;
    renderImage();
    renderContext();
    renderReport();
    renderGraph();
    renderObservations();
    // Until the report generated from these edits arrives.
    find(".study").ariaBusy = String(!isApplied());
    for (const details of element.querySelectorAll("details")) details.open = open.has(details.dataset.open);
    highlight();
    if (focusedKey) find(`[data-key="${CSS.escape(focusedKey)}"]`)?.focus({ preventScroll: true });
}

function renderImage() {
    const image = find(".current img");
    if (image.src !== value.image) image.src = value.image;
    image.alt = `The X-ray ${value.name}`;
    find(".current .xray").style.setProperty("--ratio", value.width / value.height);
    // Small boxes are on top of large ones, so that all can be reached.
    const boxed = value.regions.filter((region) => region.box).sort((one, other) => area(other.box) - area(one.box));
    find(".current .boxes").replaceChildren(...boxed.map(boxButton));
}

/** The previous image with the regions whose change is known, and the switches of what the model is shown. */
function renderContext() {
    const context = value.context;
    const prior = context?.prior_image;
    const isShown = Boolean(prior && edits.context.prior);
    find(".xrays").classList.toggle("pair", isShown);
    find(".prior").hidden = find(".current figcaption").hidden = !isShown;
    find(".context").hidden = !context;
    if (!context) return;
    const reads = (part) => context.reads.includes(part);
    find(".prior-switch").hidden = !prior;
    find(".prior-switch input").checked = isShown;
    find(".indication-switch").hidden = find(".context textarea").hidden = !reads("indication");
    find(".indication-switch input").checked = edits.context.indication !== null;
    if (document.activeElement !== find(".context textarea")) find(".context textarea").value = indication;
    if (!isShown) return;
    const image = find(".prior img");
    if (image.src !== prior) image.src = prior;
    image.alt = `The previous image of ${value.name}`;
    image.onload = () => find(".prior .xray").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
    const changed = value.regions.filter(({ name }) => context.prior_boxes[name]);
    find(".prior .boxes").replaceChildren(...changed.map((region) => priorBox(region, context.prior_boxes[region.name])));
}

function priorBox(region, [left, top, right, bottom]) {
    const box = make(
        "span",
        { className: "box changed", data: { region: region.name } },
        make("span", {}, region.name),
        make("small", { className: "change" }, region.change),
    );
    const edges = { left, top, width: right - left, height: bottom - top };
    for (const [edge, share] of Object.entries(edges)) box.style[edge] = `${100 * share}%`;
    return box;
}

function boxButton(region) {
    const [left, top, right, bottom] = region.box;
    const button = make(
        "button",
        {
            type: "button",
            className: ["box", region.abnormal ? "abnormal" : "", region.change ? "changed" : ""].join(" ").trim(),
            data: { region: region.name, key: `box ${region.name}` },
            ariaLabel: `${region.name}${region.abnormal ? ", abnormal" : ""}: show its sentences`,
        },
        make("span", {}, region.change ? `${region.name}: ${region.change}` : region.name),
        region.change ? make("small", { className: "change" }, region.change) : "",
    );
    // Keep the label inside the image.
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
    find(".sentences").replaceChildren(...value.sentences.flatMap(sentenceItems));
    const texts = new Set(value.sentences.map((sentence) => sentence.text));
    const removed = value.unedited.filter((text) => !texts.has(text));
    const isSame = !removed.length && value.sentences.length === value.unedited.length;
    find(".unchanged").textContent = isEdited(value.edits) && isSame ? "Your edits do not change the report." : "";
    find(".removed").hidden = !removed.length;
    find(".removed ul").replaceChildren(...removed.map((text) => make("li", {}, make("del", {}, value.display_texts[text]))));
}

/** The name of the section that the sentence begins; "" if it begins none. */
function sectionName(sentence, number) {
    const begins = sentence.section && sentence.section !== value.sentences[number - 1]?.section;
    return begins ? sentence.section[0].toUpperCase() + sentence.section.slice(1) : "";
}

/** The sentence, with the name of its section before the first one of it. */
function sentenceItems(sentence, number) {
    const name = sectionName(sentence, number);
    return [...(name ? [make("li", { className: "section-name" }, name)] : []), sentenceItem(sentence, number)];
}

function sentenceItem(sentence, number) {
    const regions = topRegions(sentence).map(([name, share]) => `${name} ${percent(share)}`);
    const isNew = !value.unedited.includes(sentence.text);
    const details = [
        regions.length ? `looked at ${regions.join(", ")}` : "looked at no region",
        `confidence ${percent(sentence.confidence)}`,
    ];
    const button = make(
        "button",
        { type: "button", className: "sentence", data: { sentence: number, key: `sentence ${number}` } },
        make("span", { className: "text" }, value.display_texts[sentence.text]),
        make("small", {}, isNew ? make("b", {}, "changed · ") : "", details.join(" · ")),
    );
    return make("li", {}, button);
}

function renderGraph() {
    const rows = (regions) => regions.map(regionRow);
    const inGraph = value.regions.filter(isInGraph);
    const rest = value.regions.filter((region) => !isInGraph(region));
    find(".undo").hidden = !isEdited(edits);
    find(".in-graph").replaceChildren(...rows(inGraph));
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
        region.change ? make("span", { className: "tag change" }, region.change) : "",
        region.name in edits.regions ? make("span", { className: "tag edited" }, "your edit") : "",
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
        make("span", { className: "probability", title: "probability that the report mentions it" }, percent(region.probability)),
        region.box ? make("label", { className: "show" }, box, "box") : make("span", { className: "show" }, "no box"),
    );
    return make("li", { className: "region", data: { row: region.name } }, head, ...(inGraph ? attributeChips(region) : []));
}

function attributeChips(region) {
    const sorted = [...region.attributes].sort((one, other) => other.probability - one.probability);
    const isShown = (attribute) =>
        attribute.selected || hasAttribute(region, attribute) || attribute.probability >= MIN_PROBABILITY_SHOWN;
    const chips = (attributes) =>
        make("div", { className: "chips" }, ...attributes.map((attribute) => attributeChip(region, attribute)));
    const hidden = sorted.filter((attribute) => !isShown(attribute));
    const more = make(
        "details",
        { data: { open: `more ${region.name}` } },
        make("summary", { data: { key: `more ${region.name}` } }, `${hidden.length} more`),
        chips(hidden),
    );
    return [chips(sorted.filter(isShown)), ...(hidden.length ? [more] : [])];
}

function attributeChip(region, attribute) {
    const isEditedChip = edits.attributes[region.name]?.[attribute.name] !== undefined;
    return make(
        "button",
        {
            type: "button",
            className: isEditedChip ? "chip edited" : "chip",
            ariaPressed: String(hasAttribute(region, attribute)),
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
