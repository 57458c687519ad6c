// Acting: the token, questions before anything is done, and saying what came of it. The token is kept in this tab only.

const KEPT = "amino-dashboard-token";

export class Actions {
  constructor(dialog, toasts) {
    this.dialog = dialog;
    this.toasts = toasts;
    this.possible = false;
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given) {
      sessionStorage.setItem(KEPT, given);
      history.replaceState(null, "", location.pathname);
    }
  }

  get token() {
    return sessionStorage.getItem(KEPT) || "";
  }

  /** Ask for the token; resolves to whether there is one now. */
  async unlock(why = "Actions need the token that the server was started with (AMINO_DASHBOARD_TOKEN).") {
    const given = await this.ask({ title: "Unlock", text: why, button: "Unlock", fields: [{ name: "token", label: "Token", type: "password", value: "" }] });
    if (!given) return false;
    sessionStorage.setItem(KEPT, given.token.trim());
    try {
      await this.post(null);
    } catch (error) {
      sessionStorage.removeItem(KEPT);
      this.toast(error.status === 401 ? "That is not this dashboard's token." : error.message, "bad");
      return false;
    }
    this.toast("Actions are unlocked in this tab.", "ok");
    return true;
  }

  lock() {
    sessionStorage.removeItem(KEPT);
  }

  /** Ask whether it shall be so, then have it done. `question`: {title, text, button, fields, danger}; fields' values go along. */
  async act(action, question) {
    if (!this.possible) return this.toast("This dashboard only shows: the server was started without AMINO_DASHBOARD_TOKEN.", "bad");
    if (!this.token && !(await this.unlock())) return;
    const given = await this.ask(question);
    if (!given) return;
    const { which, ...fields } = given;
    const body = { ...action, ...fields };
    if (which) [body.path, body.replica] = which.split(" "); // a group and its replica, chosen as one
    const note = this.toast(`${question.title} …`, "busy", true);
    try {
      const done = await this.post(body);
      this.toast(`${question.title}: ${done.done}`, "ok");
    } catch (error) {
      if (error.status === 401) this.lock();
      this.toast(`${question.title}: ${error.message}`, "bad");
    } finally {
      note.remove();
    }
  }

  async post(body) {
    let answer;
    try {
      answer = await fetch("api/actions", {
        method: "POST", credentials: "omit", cache: "no-store",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${this.token}` },
        body: body === null ? "" : JSON.stringify(body),
      });
    } catch {
      throw new Error("the server did not answer; look what became of it before you repeat it");
    }
    const said = await answer.json();
    if (answer.ok) return said;
    const error = new Error(said.error);
    error.status = answer.status;
    throw error;
  }

  ask({ title, text, button, fields = [], danger = false }) {
    const dialog = this.dialog;
    const form = document.createElement("form");
    form.method = "dialog";
    const heading = document.createElement("h2");
    heading.id = "dialog-title";
    heading.textContent = title;
    const words = document.createElement("p");
    words.textContent = text;
    form.append(heading, words);
    const inputs = fields.map((field) => {
      const label = document.createElement("label");
      label.append(field.label);
      const input = document.createElement(field.options ? "select" : "input");
      if (field.options) {
        for (const [value, words] of field.options) input.add(new Option(words, value));
      } else {
        input.type = field.type || "text";
        if (field.type === "number") Object.assign(input, { min: 1, max: 1000, required: true });
        if (field.type === "password") Object.assign(input, { required: true, autocomplete: "off" });
      }
      input.value = field.value ?? "";
      label.append(input);
      form.append(label);
      return [field, input];
    });
    const menu = document.createElement("menu");
    const no = document.createElement("button"), yes = document.createElement("button");
    no.type = "button";
    no.textContent = "Cancel";
    yes.value = "yes";
    yes.textContent = button;
    yes.className = danger ? "danger" : "main";
    menu.append(no, yes);
    form.append(menu);
    dialog.replaceChildren(form);
    return new Promise((resolve) => {
      no.addEventListener("click", () => dialog.close(""));
      dialog.addEventListener("close", () => {
        if (dialog.returnValue !== "yes") return resolve(null);
        resolve(Object.fromEntries(inputs.map(([field, input]) => [field.name, field.type === "number" ? Number(input.value) : input.value])));
      }, { once: true });
      dialog.returnValue = "";
      dialog.showModal();
      (inputs[0]?.[1] || no).focus();
    });
  }

  toast(text, tone, stays = false) {
    const box = document.createElement("div");
    box.className = "toast";
    box.dataset.tone = tone;
    box.textContent = text;
    this.toasts.append(box);
    while (this.toasts.children.length > 5) this.toasts.firstChild.remove();
    if (!stays) setTimeout(() => box.remove(), tone === "bad" ? 15000 : 6000);
    return box;
  }
}
