// Saves the displayed study as JSON, or as an image with boxes and report.

const SAVED_SIDE = 1024;
const SAVED_GAP = 16; // between the previous image and this one

function save(blob, extension) {
    const link = make("a", { href: URL.createObjectURL(blob), download: `${value.name.replace(/\.[^.]*$/, "")}.${extension}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
}

function saveJson() {
    const text = JSON.stringify({ ...value.result, edits: value.edits }, null, 2);
    save(new Blob([text], { type: "application/json" }), "json");
}

/** Save the image with the visible boxes, beside the previous one if it is shown, and the report below. */
async function saveImage() {
    const image = find(".current img");
    const prior = find(".prior").hidden ? null : find(".prior img");
    await Promise.all([image, prior].map((shown) => shown?.decode()));
    const scale = SAVED_SIDE / Math.max(value.width, value.height);
    const [width, height] = [value.width * scale, value.height * scale];
    const priorWidth = prior ? (height * prior.naturalWidth) / prior.naturalHeight : 0;
    const left = prior ? priorWidth + SAVED_GAP : 0;
    const canvas = make("canvas", { width: left + width });
    const context = canvas.getContext("2d");
    const font = "20px system-ui, sans-serif";
    context.font = font;
    const lines = savedTexts(Boolean(prior)).flatMap((text) => wrap(context, text, canvas.width - 40));
    canvas.height = height + 30 * lines.length + 40;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, left, 0, width, height);
    for (const box of element.querySelectorAll(".current .box:not([hidden])")) {
        const region = findRegion(box.dataset.region);
        drawBox(context, region, region.box.map((corner, axis) => corner * scale + (axis % 2 ? 0 : left)));
    }
    if (prior) {
        context.drawImage(prior, 0, 0, priorWidth, height);
        for (const box of element.querySelectorAll(".prior .box:not([hidden])")) {
            const corners = value.context.prior_boxes[box.dataset.region];
            drawBox(context, findRegion(box.dataset.region), corners.map((share, axis) => share * (axis % 2 ? height : priorWidth)));
        }
    }
    context.font = font;
    context.fillStyle = "#1c2430";
    lines.forEach((line, number) => context.fillText(line, 20, height + 40 + 30 * number));
    canvas.toBlob((blob) => save(blob, "png"), "image/png");
}

/** What is written below the image: what the model was shown, the report with the names of its sections, the notice. */
function savedTexts(hasPrior) {
    const shown = value.edits.context?.indication;
    const sentences = value.sentences.flatMap((sentence, number) => {
        const name = sectionName(sentence, number);
        return [...(name ? [`${name}:`] : []), value.display_texts[sentence.text]];
    });
    return [
        ...(hasPrior ? ["Left: the previous image. Right: this image."] : []),
        ...(shown ? [`Indication: ${shown}`] : []),
        ...(hasPrior || shown ? [""] : []),
        ...sentences, "", value.notice,
    ];
}

/** Draw the box of a region at its corners [left, top, right, bottom] on the canvas, with name and change. */
function drawBox(context, region, [left, top, right, bottom]) {
    context.lineWidth = 3;
    context.strokeStyle = context.fillStyle = region.abnormal ? "#ffb000" : "#4fc3f7";
    context.strokeRect(left, top, right - left, bottom - top);
    context.font = "16px system-ui, sans-serif";
    context.fillText(region.change ? `${region.name}: ${region.change}` : region.name, left + 5, top + 18);
}

/** Split `text` into lines of at most `width` pixels. */
function wrap(context, text, width) {
    const lines = [""];
    for (const word of text.split(" ")) {
        const longer = `${lines.at(-1)} ${word}`.trim();
        if (lines.at(-1) && context.measureText(longer).width > width) lines.push(word);
        else lines[lines.length - 1] = longer;
    }
    return lines;
}
