def run(input, ctx):
    return 1
