// In a viewer's frame: a click is told to the page, which tells the other viewers.
const makeViewer = brainsprite;
brainsprite = (settings) => {
  const viewer = makeViewer(settings);
  viewer.onclick = () =>
    parent.postMessage(
      { slices: { ...viewer.numSlice }, position: { ...viewer.coordinatesSlice } },
      "*",
    );
  addEventListener("message", (event) => {
    if (event.source !== parent || !event.data.slices) return;
    Object.assign(viewer.numSlice, event.data.slices);
    Object.assign(viewer.coordinatesSlice, event.data.position);
    viewer.drawAll();
  });
  return viewer;
};
