"""MinnieTwitter: users, tweets, tags, timelines and followers as plain classes."""
