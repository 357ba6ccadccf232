//@unless weights_file
    (void)argc;
    (void)argv;
    name_init(&state);
//@end weights_file
//@if weights_file
#ifdef NAME_WEIGHTS_EMBEDDED
    (void)argc;
    (void)argv;
#else
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!file || fread(name_weights, NAME_WEIGHTS_BYTES, 1, file) != 1) {
        fprintf(stderr, "give the path of $name.bin\n");
        return 2;
    }
    fclose(file);
#endif
    if (name_check(name_weights, NAME_WEIGHTS_BYTES)) {
        fprintf(stderr, "$name.bin is not whole, or of another model\n");
        return 2;
    }
    name_init(&state, name_weights);
//@end weights_file
