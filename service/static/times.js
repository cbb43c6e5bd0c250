// Times of a person's own clock: the server writes them in UTC.

const SHORT = { day: "numeric", month: "long", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };

export function localTimes(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const year = "years" in time.dataset ? { year: "numeric" } : {};
    time.textContent = new Date(time.dateTime).toLocaleString("en-GB", { ...SHORT, ...year }).replace(" at ", ", ");
  }
}
