// The live stream of server-sent events, read with fetch so that the token can travel in a header; opened again when it breaks.

const QUIET_MS = 15000; // the server says something at least every five seconds
const RETRY_MS_MAX = 8000;

export class Stream {
  /** handlers: {message(kind, data), state(text | "", refused)}; token(): the token or "". */
  constructor(url, handlers, token) {
    this.url = url;
    this.handlers = handlers;
    this.token = token;
    this.retryMs = 500;
    this.waiting = null;
  }

  start() {
    this.run();
  }

  /** Try again now: there is a token, or somebody is looking again. */
  hurry() {
    this.waiting?.();
  }

  async run() {
    for (;;) {
      const abort = new AbortController();
      let watch = setTimeout(() => abort.abort(), QUIET_MS);
      let why = "The connection to the server is lost; trying again …";
      try {
        const token = this.token();
        const answer = await fetch(this.url, {
          signal: abort.signal, cache: "no-store", credentials: "omit",
          headers: token ? { Authorization: `Bearer ${token}` } : {},
        });
        if (answer.status === 401) {
          this.handlers.state("This dashboard asks for its token.", true);
          await this.pause(60000);
          continue;
        }
        if (!answer.ok) throw new Error((await answer.json()).error);
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          clearTimeout(watch);
          watch = setTimeout(() => abort.abort(), QUIET_MS);
          const parts = (rest + value).split("\n\n");
          rest = parts.pop();
          for (const part of parts) this.take(part);
        }
      } catch (error) {
        if (error.name !== "AbortError" && error.name !== "TypeError") why = `${error.message}; trying again …`;
      } finally {
        clearTimeout(watch);
        abort.abort();
      }
      this.handlers.state(why, false);
      await this.pause(this.retryMs * (0.7 + 0.6 * Math.random()));
      this.retryMs = Math.min(RETRY_MS_MAX, this.retryMs * 2);
    }
  }

  take(part) {
    const kind = part.match(/^event: (.*)$/m)?.[1];
    const data = part.match(/^data: (.*)$/m)?.[1];
    if (!kind || data === undefined) return;
    if (kind === "hello") {
      this.retryMs = 500;
      this.handlers.state("", false);
    }
    this.handlers.message(kind, JSON.parse(data));
  }

  pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.waiting = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
