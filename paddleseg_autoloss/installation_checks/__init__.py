"""``autoloss checks``: does this installation compute what it should, on every device?"""
