// Browsers start no worker on a page that was opened from disk. There, run its script in a hidden frame, so that the
// search works without a server. Zensical's offline plugin would load such a file from the network.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html>";
      this.frame.onload = () => this.run(new URL(url, location.href).href);
      document.documentElement.append(this.frame);
    }

    run(address) {
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.tell(this, data);
      const script = inside.document.createElement("script");
      script.src = address;
      script.onload = () => {
        this.waiting.forEach((data) => this.tell(inside, data));
        this.waiting = null;
      };
      script.onerror = () => this.onerror?.(new ErrorEvent("error", { message: `${address} does not load` }));
      inside.document.head.append(script);
    }

    tell(target, message) {
      const data = structuredClone(message); // the script changes what it gets
      setTimeout(() => target.onmessage?.(new MessageEvent("message", { data })));
    }

    postMessage(data) {
      this.waiting ? this.waiting.push(data) : this.tell(this.frame.contentWindow, data);
    }

    terminate() {
      this.frame.remove();
    }
  };
}
