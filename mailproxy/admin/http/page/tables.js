// Tables that change in place, so that focus and a screen reader's position stay where they are.
//
// A column is { title, text(item), style(item), buttons(item) }. The first column names the row.
// Text from the proxy is set as textContent only.

const drawn = new WeakMap();  // table: { titles, rows by key }

export function fillTable(table, columns, items, keyOf) {
  table.hidden = items.length === 0;
  table.nextElementSibling.hidden = !table.hidden;
  const rows = rowsOf(table, columns);
  const keys = items.map(keyOf);
  for (const [key, row] of rows) {
    if (!keys.includes(key)) remove(table, rows, key, row);
  }
  const body = table.tBodies[0];
  items.forEach((item, position) => {
    let row = rows.get(keys[position]);
    if (!row) {
      row = makeRow(columns, item);
      rows.set(keys[position], row);
    }
    if (body.rows[position] !== row) body.insertBefore(row, body.rows[position] ?? null);
    columns.forEach((column, index) => {
      if (column.text) setText(row.cells[index].firstChild, column.text(item), column.style?.(item));
    });
  });
}

export function setText(element, text, style = "") {
  if (element.textContent !== text) element.textContent = text;
  if (element.className !== style) element.className = style;
}

export function makeButton(label, description, action) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.setAttribute("aria-label", `${label}: ${description}`);
  button.addEventListener("click", action);
  return button;
}

/** Return the table's rows by key; none if its columns have changed. */
function rowsOf(table, columns) {
  const titles = columns.map((column) => column.title).join("\n");
  if (drawn.get(table)?.titles !== titles) {
    const head = make("thead", "rowgroup");
    const line = head.appendChild(make("tr", "row"));
    for (const { title } of columns) {
      const cell = line.appendChild(make("th", "columnheader"));
      cell.scope = "col";
      cell.textContent = title;
    }
    table.setAttribute("role", "table");
    table.replaceChildren(head, make("tbody", "rowgroup"));
    drawn.set(table, { titles, rows: new Map() });
  }
  return drawn.get(table).rows;
}

function makeRow(columns, item) {
  const row = make("tr", "row");
  columns.forEach((column, index) => {
    const cell = row.appendChild(index ? make("td", "cell") : make("th", "rowheader"));
    if (index) cell.dataset.title = column.title;
    else cell.scope = "row";
    const content = cell.appendChild(document.createElement("span"));
    if (column.buttons) content.append(...column.buttons(item));
  });
  return row;
}

function remove(table, rows, key, row) {
  const hadFocus = row.contains(document.activeElement);
  row.remove();
  rows.delete(key);
  if (hadFocus) table.closest("section").querySelector("h2").focus();
}

/** The role is explicit, because the cards of narrow screens are no tables to some browsers. */
function make(name, role) {
  const element = document.createElement(name);
  element.setAttribute("role", role);
  return element;
}
