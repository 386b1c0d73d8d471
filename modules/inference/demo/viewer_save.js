// Saves the displayed study as JSON, or as an image with boxes and report.

const SAVED_SIDE = 1024;

function save(blob, extension) {
    const link = make("a", { href: URL.createObjectURL(blob), download: `${value.name.replace(/\.[^.]*$/, "")}.${extension}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
}

function saveJson() {
    const text = JSON.stringify({ ...value.result, edits: value.edits }, null, 2);
    save(new Blob([text], { type: "application/json" }), "json");
}

/** Save the image with the visible boxes, and the report below it. */
async function saveImage() {
    const image = find(".current img");
    await image.decode();
    const scale = SAVED_SIDE / Math.max(value.width, value.height);
    const [width, height] = [value.width * scale, value.height * scale];
    const canvas = make("canvas", { width });
    const context = canvas.getContext("2d");
    const font = "20px system-ui, sans-serif";
    context.font = font;
    const paragraphs = [...value.sentences.map(({ text }) => value.display_texts[text]), "", value.notice];
    const lines = paragraphs.flatMap((text) => wrap(context, text, width - 40));
    canvas.height = height + 30 * lines.length + 40;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, canvas.height);
    context.drawImage(image, 0, 0, width, height);
    for (const box of element.querySelectorAll(".current .box:not([hidden])")) drawBox(context, findRegion(box.dataset.region), scale);
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
