// Browsers start no worker for a page that was opened as a file. Then an invisible frame does its
// work, so that the search works without a server too.
if (location.protocol === "file:") {
  const START = `
    const above = parent;
    self.postMessage = (data) => above.postMessage(data, "*");
    self.importScripts = async (...urls) => {
      for (const url of urls) {
        await new Promise((done, failed) => {
          const script = document.createElement("script");
          Object.assign(script, { src: url, onload: done, onerror: failed });
          document.head.append(script);
        });
      }
    };`;

  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = `<script>${START}</script><script src="${new URL(url, location)}"></script>`;
      this.frame.onload = () => {
        this.waiting.forEach((data) => this.send(data));
        this.waiting = null;
      };
      window.addEventListener("message", (event) => {
        if (event.source === this.frame.contentWindow) {
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
        }
      });
      const attach = () => document.body.append(this.frame);
      document.body ? attach() : addEventListener("DOMContentLoaded", attach);
    }

    postMessage(data) {
      this.waiting ? this.waiting.push(data) : this.send(data);
    }

    send(data) {
      // Not the frame's own postMessage, which is a worker's and sends to this page.
      window.postMessage.call(this.frame.contentWindow, data, "*");
    }
  };
}
