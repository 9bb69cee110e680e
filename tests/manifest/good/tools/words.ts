export const wordCount = () => 1;
