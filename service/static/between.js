// A slider in the panel of an image: decoded images between the query and this image.

import { ask, newest } from "./asking.js";

export function between(article) {
  const section = article.querySelector(".between");
  const mu = document.querySelector("[data-mu]")?.dataset.mu;
  if (!section || !mu || mu === "[]") return;
  const [slider, picture, said] = ["input", "img", ".minor"].map((one) => section.querySelector(one));
  const [search, image] = [{ vector: JSON.parse(mu) }, { image_id: Number(article.dataset.image) }];

  const refresh = newest(async () => {
    const share = Number(slider.value);
    const parts = [{ ...image, weight: share }, { ...search, weight: 1 - share }]; // the first one gives the size
    try {
      const body = JSON.stringify({ parts });
      const answer = await ask("/v1/latents", { method: "POST", headers: { "Content-Type": "application/json" }, body });
      picture.src = (await answer.json()).picture;
      said.textContent = `${Math.round(100 * share)} % of the way to this image`;
      section.hidden = false;
    } catch (error) {
      said.textContent = error.message;
    }
  });

  slider.addEventListener("input", refresh);
  refresh();
}
