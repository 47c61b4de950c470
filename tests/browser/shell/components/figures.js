// Draws the objects of an annotation, as the platform's API writes them, over a picture.

/** Draws `figures` with the colours of `classes`, `{ title: '#rrggbb' }`, into a canvas of the picture's size. */
export async function drawFigures(context, figures, classes, opacity) {
  for (const figure of figures) {
    const color = classes[figure.classTitle] || '#ff0000';
    context.globalAlpha = opacity;
    if (figure.bitmap) {
      await drawBitmap(context, figure.bitmap, color);
    } else if (figure.points) {
      drawPoints(context, figure, color);
    }
  }
  context.globalAlpha = 1;
}

async function drawBitmap(context, bitmap, color) {
  const packed = Uint8Array.from(atob(bitmap.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
  const image = await createImageBitmap(await new Response(stream).blob());
  const layer = new OffscreenCanvas(image.width, image.height);
  const paint = layer.getContext('2d');
  paint.drawImage(image, 0, 0);
  const pixels = paint.getImageData(0, 0, image.width, image.height);
  const rgb = [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
  for (let i = 0; i < pixels.data.length; i += 4) {
    const inside = pixels.data[i + 3] && (pixels.data[i] || pixels.data[i + 1] || pixels.data[i + 2]);
    pixels.data.set([...rgb, inside ? 255 : 0], i);
  }
  paint.putImageData(pixels, 0, 0);
  context.drawImage(layer, ...bitmap.origin);
}

function drawPoints(context, figure, color) {
  let { exterior } = figure.points;
  if (figure.geometryType === 'rectangle' && exterior.length === 2) {
    const [[left, top], [right, bottom]] = exterior;
    exterior = [[left, top], [right, top], [right, bottom], [left, bottom]];
  }
  context.fillStyle = color;
  context.beginPath();
  for (const ring of [exterior, ...(figure.points.interior || [])]) {
    ring.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
  }
  context.fill('evenodd');
}
