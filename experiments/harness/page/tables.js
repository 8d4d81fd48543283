// Tables that sort by the column whose head is clicked, and tables of CSV text, made when they are first opened.
function sortable(table) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    head.tabIndex = 0;
    head.setAttribute("role", "button");
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => compared(key(a), key(b)));
      table.tBodies[0].append(...(down ? rows.reverse() : rows));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  }
}

// Numbers by value, before words; what is empty comes last.
function compared(a, b) {
  const rank = (cell) => (cell === "" ? 2 : isNaN(cell) ? 1 : 0);
  return rank(a) - rank(b) || (rank(a) === 0 ? a - b : a < b ? -1 : a > b ? 1 : 0);
}

function cells(csv) {
  const rows = [[]];
  for (const [, quoted, plain, end] of csv.matchAll(/(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\n|$)/g)) {
    rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === "\n") rows.push([]);
    if (end === "") break;
  }
  return rows.filter((row) => row.length > 1 || row[0]);
}

function tabulate(details) {
  const [head, ...body] = cells(document.getElementById(details.dataset.csv).textContent.trim().replaceAll("<\\/", "</"));
  const table = document.createElement("table"), around = document.createElement("div");
  const heads = table.createTHead().insertRow();
  for (const name of head) heads.append(Object.assign(document.createElement("th"), { textContent: name }));
  const rows = table.createTBody();
  for (const row of body) {
    const made = rows.insertRow();
    for (const value of row) {
      const cell = made.insertCell(), number = value !== "" && !isNaN(value);
      cell.dataset.value = value;
      cell.className = number ? "number" : "";
      cell.textContent = number ? String(Number(Number(value).toPrecision(6))) : value;
    }
  }
  around.className = "wide tall";
  around.append(table);
  details.append(around);
  sortable(table);
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("details.numbers").forEach((details) => {
  details.addEventListener("toggle", () => details.querySelector("table") ?? tabulate(details));
});
