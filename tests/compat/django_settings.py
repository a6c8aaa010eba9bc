"""Settings for Django's own test suite, and a runner that writes down how each test ended."""

import json
import os
import unittest

from django.test.runner import DiscoverRunner

OPTIONS = json.loads(os.environ["COMPAT_DJANGO"])


def database(name):
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": OPTIONS["host"],
        "PORT": OPTIONS["port"],
        "USER": OPTIONS["user"],
        "PASSWORD": OPTIONS["password"],
        "NAME": name,
    }


DATABASES = {"default": database("django"), "other": database("django2")}
SECRET_KEY = "not a secret"  # noqa: S105
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "django_settings.Runner"


class Result(unittest.TextTestResult):
    """One JSON line for each test."""

    def note(self, test, status, message=""):
        with open(OPTIONS["report"], "a") as report:
            print(json.dumps({"test": str(getattr(test, "test_case", test).id()), "status": status, "message": message}), file=report)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.note(test, "passed")

    def addError(self, test, err):
        super().addError(test, err)
        self.note(test, "failed", self._exc_info_to_string(err, test))

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.note(test, "failed", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.note(test, "passed")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.note(test, "failed", "unexpected success")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.note(test, "failed", self._exc_info_to_string(err, test))


class Runner(DiscoverRunner):
    def get_resultclass(self):
        return Result
