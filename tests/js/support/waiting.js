// Waiting for something that happens, with a deadline instead of a sleep.

/** Long enough for a loaded machine: it bounds how long a failing test hangs and says nothing about speed. */
export const DEADLINE_MS = 30_000;

/** Rejects with a sentence when `promise` is not settled in time. */
export async function within(promise, what, deadline = DEADLINE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: did not happen within ${deadline} ms`)), deadline);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Conditions that are looked at again whenever something has changed. */
export class Watched {
  #waiters = new Set();

  /** Says that something has changed. */
  changed() {
    for (const waiter of this.#waiters) waiter();
  }

  /** Resolves as soon as `condition` holds. `what` is the sentence of the failure; it may be a function of the state then. */
  async until(condition, what, deadline = DEADLINE_MS) {
    if (condition()) return;
    let waiter;
    const held = new Promise((resolve) => {
      waiter = () => condition() && resolve();
      this.#waiters.add(waiter);
    });
    try {
      await within(held, "a condition", deadline);
    } catch (error) {
      throw new Error(`${typeof what === "function" ? what() : what}: not so within ${deadline} ms`, { cause: error });
    } finally {
      this.#waiters.delete(waiter);
    }
  }
}
