// Push to talk: held by pointer, by the space bar or by Enter; or pressed once to talk and once more to stop.

export class Talk {
  #button;
  #call;
  #isToggle;

  /** The button says how it is used. */
  say() {
    this.#button.firstElementChild.textContent = this.#isToggle() ? "Press to talk" : "Hold to talk";
  }

  /** `call()` is the one to talk to, `isToggle()` whether a press stays. */
  constructor(button, call, isToggle) {
    this.#button = button;
    this.#call = call;
    this.#isToggle = isToggle;
    button.addEventListener("pointerdown", (event) => {
      button.setPointerCapture(event.pointerId);
      this.#down();
    });
    for (const type of ["pointerup", "pointercancel"]) button.addEventListener(type, () => this.#up());
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch
    document.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("keyup", (event) => this.#key(event));
    window.addEventListener("blur", () => this.#isToggle() || this.#release()); // the key comes up elsewhere, unseen
  }

  get #isHeld() { return "held" in this.#button.dataset; }

  #down() {
    if (this.#isHeld) this.#release();
    else this.#press();
  }

  #up() {
    if (!this.#isToggle()) this.#release();
  }

  #press() {
    this.#button.dataset.held = "";
    this.#button.setAttribute("aria-pressed", "true");
    this.#call().press();
  }

  #release() {
    if (!this.#isHeld) return;
    delete this.#button.dataset.held;
    this.#button.setAttribute("aria-pressed", "false");
    this.#call().release();
  }

  /** Space anywhere but where it means something else; Enter on the button itself. */
  #key(event) {
    if (this.#button.hidden || event.altKey || event.ctrlKey || event.metaKey) return;
    const onButton = event.target === this.#button;
    const elsewhere = event.target.closest("input, select, textarea, a, summary, button, [contenteditable]");
    const isMeant = event.code === "Space" ? onButton || !elsewhere : event.code === "Enter" && onButton;
    if (!isMeant) return;
    event.preventDefault();
    if (event.type === "keyup") this.#up();
    else if (!event.repeat) this.#down();
  }
}
