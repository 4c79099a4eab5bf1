// Drives Debian's Chromium for the browser tests: a line of JSON on standard input says what to do, a line on standard output
// what came of it. Usage: driver.mjs FOLDER_OF_NODE_MODULES
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const require = createRequire(`${process.argv[2]}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const LIMIT = 60_000;
let context, page, problems, hosts;

const actions = {
  async open({ url, width = 1200, height = 900, scheme = "light" }) {
    await context?.close();
    context = await browser.newContext({
      viewport: { width, height }, colorScheme: scheme, timezoneId: "Asia/Jerusalem", locale: "en-GB", reducedMotion: "reduce",
      permissions: ["clipboard-read", "clipboard-write"],
    });
    page = await context.newPage();
    page.setDefaultTimeout(LIMIT);
    problems = [];
    hosts = new Set();
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("request", (request) => request.url().startsWith("http") && hosts.add(new URL(request.url()).host));
    await page.goto(url);
  },
  goto: ({ url }) => page.goto(url).then(() => null),
  view: ({ width, height, scheme }) => Promise.all([page.setViewportSize({ width, height }), page.emulateMedia({ colorScheme: scheme })]).then(() => null),
  url: () => page.url(),
  click: ({ role, name }) => page.getByRole(role, { name, exact: true }).first().click(),
  fill: ({ label, text }) => page.getByLabel(label, { exact: true }).fill(text),
  select: ({ label, value }) => page.getByLabel(label, { exact: true }).selectOption(value).then(() => null),
  check: ({ label }) => page.getByLabel(label, { exact: true }).check(),
  press_on: ({ selector }) => page.locator(selector).first().click(),
  value: ({ label }) => page.getByLabel(label, { exact: true }).inputValue(),
  open_row: ({ index }) => page.locator(".attempts summary").nth(index).click(),
  wait_text: ({ selector, text }) => page.locator(selector).filter({ hasText: text }).first().waitFor(),
  wait_no: ({ selector }) => page.locator(selector).first().waitFor({ state: "detached" }),
  // As when the stream of events tells that something happened, and what is shown is looked up anew.
  async refresh({ selector }) {
    await page.evaluate((selector) => new Promise((done) => {
      document.querySelector(selector).addEventListener("htmx:afterSettle", done, { once: true });
      document.body.dispatchEvent(new CustomEvent("live-webhook"));
    }), selector);
  },
  count: ({ selector }) => page.locator(selector).count(),
  text: ({ selector }) => page.locator(selector).first().innerText(),
  attribute: ({ selector, name }) => page.locator(selector).first().getAttribute(name),
  press: ({ key }) => page.keyboard.press(key),
  type: ({ text }) => page.keyboard.type(text),
  focused: () => page.evaluate(() => {
    const at = document.activeElement;
    const label = at.getAttribute("aria-label") || at.labels?.[0]?.innerText || at.innerText || at.value || "";
    return `${at.tagName.toLowerCase()} ${label.trim().split("\n")[0]}`;
  }),
  aria: ({ selector }) => page.locator(selector).ariaSnapshot(),
  async axe() {
    await page.evaluate(axe);
    const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    return found.violations.map((violation) => `${violation.id}: ${violation.help}: ${violation.nodes.map((node) => node.html).join(" ")}`);
  },
  async wide() {
    return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  },
  shot: ({ path, full = true }) => page.screenshot({ path, fullPage: full }).then(() => null),
  async download({ name }) {
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name, exact: true }).click()]);
    return { name: download.suggestedFilename(), text: readFileSync(await download.path(), "utf8") };
  },
  problems: () => problems,
  hosts: () => [...hosts],
};

for await (const line of createInterface({ input: process.stdin })) {
  const { action, ...args } = JSON.parse(line);
  let said;
  try {
    said = { done: (await actions[action](args)) ?? null };
  } catch (error) {
    said = { failed: String(error) };
  }
  process.stdout.write(`${JSON.stringify(said)}\n`);
}
await browser.close();
