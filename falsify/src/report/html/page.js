"use strict";
// Without this script the page is whole: links open rows, filters are radio buttons. It adds search and copying.
const rows = [...document.querySelectorAll(".row")];
const find = document.getElementById("find");
find.hidden = false;
find.addEventListener("input", () => {
  const word = find.value.trim().toLowerCase();
  for (const row of rows) row.classList.toggle("hide", word !== "" && !row.textContent.toLowerCase().includes(word));
});
// Browsers that do not open a closed <details> for a link into it.
const open = () => {
  const row = document.getElementById(location.hash.slice(1))?.closest(".row");
  if (!row) return;
  if (getComputedStyle(row).display === "none") {
    document.getElementById("show-all").checked = true;
    find.value = "";
    find.dispatchEvent(new Event("input"));
  }
  row.open = true;
  row.scrollIntoView({ block: "start" });
};
addEventListener("hashchange", open);
open();
for (const command of document.querySelectorAll(".cmd")) {
  const button = document.createElement("button");
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(command);
    }
  });
  command.after(button);
}
