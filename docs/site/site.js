// The filter of the catalogue's table: a row stays if it has all words.
const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.querySelectorAll("#nets tbody tr")];
  const found = document.getElementById("found");
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += row.hidden ? 0 : 1;
    }
    found.textContent = `${count} of ${rows.length} nets`;
  };
  filter.addEventListener("input", apply);
  apply();
}

// What can be scrolled sideways is reached by the keyboard, in browsers too that do not see to it.
const reach = () => {
  for (const part of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
};
window.addEventListener("load", () => setTimeout(reach));
window.addEventListener("resize", reach);
