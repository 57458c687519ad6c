"""``python -m minnietwitter``: sign up, follow, tweet and read, on a cluster of its own or at a given address."""

import sys
from contextlib import ExitStack
from pathlib import Path

import amino
from amino.testing import LocalCluster
from minnietwitter.twitter import NameTaken, Twitter, entry


def main(addresses: list[str]) -> None:
    with ExitStack() as stack:
        if addresses:
            cluster = stack.enter_context(amino.connect(*addresses))
        else:
            local = stack.enter_context(LocalCluster(app_dirs=[Path(__file__).parents[1]]))
            cluster = stack.enter_context(local.connect())
        cluster.define_app("minnietwitter", entry())
        play(cluster.app("minnietwitter", Twitter))


def play(twitter: Twitter) -> None:
    ada, grace = twitter.sign_up("ada"), twitter.sign_up("grace")
    try:
        twitter.sign_up("ada")
    except NameTaken as error:
        print(f"the name {error} is taken")

    grace.user.follow(ada)
    ada.user.post("Hello, cluster #amino")
    ada.user.post("Plain classes, no base class")
    for tweet in grace.user.home():
        print(f"grace reads: {tweet.author}: {tweet.text}")
    print("followers of ada:", ada.followers.all())
    tag = twitter.all_tags().tag("amino")
    print("tagged #amino:", [tweet.text for tweet in tag.newest()])


if __name__ == "__main__":
    main(sys.argv[1:])
