// Search runs in a worker, and browsers start none from a file:// address. There, a hidden frame is one.
// The theme looks for `IFrameWorker` in the parent of its worker, and would fetch such a script from a server.
if (location.protocol === "file:") {
  window.IFrameWorker = class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.addEventListener("load", () => {
        this.worker = frame.contentWindow;
        this.waiting.splice(0).forEach((message) => this.worker.deliver(message, "*"));
      });
      addEventListener("message", (event) => {
        if (event.source !== frame.contentWindow) return;
        event.stopImmediatePropagation();
        this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      // what a worker posts goes to its parent, and what it imports are scripts of its page
      const own =
        "window.deliver = window.postMessage;" +
        "window.postMessage = (message) => parent.postMessage(message, '*');" +
        "window.importScripts = (...urls) => Promise.all(urls.map((url) => new Promise((done) => {" +
        "const script = document.createElement('script'); script.src = url; script.onload = done;" +
        "document.head.append(script); })));";
      frame.srcdoc = `<script>${own}<\/script><script src="${new URL(url, location.href)}"><\/script>`;
      document.body.append(frame);
    }

    postMessage(message) {
      if (this.worker) this.worker.deliver(message, "*");
      else this.waiting.push(message);
    }
  };
  window.Worker = window.IFrameWorker;
}
