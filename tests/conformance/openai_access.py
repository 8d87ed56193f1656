"""Drive the `openai` client against a server with keys: `python openai_access.py BASE_URL KEY`."""

import sys

import openai
from checks import expect, run_checks


class Driver:
    """Checks of keys and of the rate limit; the last uses up the key's requests of this minute."""

    def __init__(self, base_url: str, key: str):
        self.base_url = base_url
        self.key = key

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=key, max_retries=0, timeout=30)

    def good_key_is_let_in(self):
        expect(len(self.client(self.key).models.list().data) == 1, "no model listed")

    def wrong_key_is_refused(self):
        try:
            self.client("hdl-wrong").models.list()
        except openai.AuthenticationError as error:
            expect(error.code == "invalid_api_key", error.body)
        else:
            raise AssertionError("a wrong key was let in")

    def hasty_caller_is_slowed(self):
        client = self.client(self.key)
        model = client.models.list().data[0].id
        try:
            for _ in range(30):
                client.completions.create(model=model, prompt="Hello", max_tokens=1)
        except openai.RateLimitError as error:
            expect(float(error.response.headers["retry-after"]) > 0, error.response.headers)
        else:
            raise AssertionError("30 requests at once were let through a limit of 20 a minute")


CHECKS = ("good_key_is_let_in", "wrong_key_is_refused", "hasty_caller_is_slowed")


def main() -> int:
    """Run every check against the server named on the command line."""
    driver = Driver(sys.argv[1], sys.argv[2])
    return run_checks({name: getattr(driver, name) for name in CHECKS})


if __name__ == "__main__":
    sys.exit(min(main(), 1))
